"""Feature stores: backbone features of a data set in a folder of `.npy` shards."""
