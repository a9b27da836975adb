"""Feature maps: HDF5 files and feature stores."""
