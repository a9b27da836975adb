"""Data sets: splits, word vectors, feature stores, input pipelines and the built-in demo set."""
