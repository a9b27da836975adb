"""Where data come from: archives, folders, .mat files, word vectors, the drawn set."""
