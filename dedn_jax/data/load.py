"""From `config.data` to a checked data set."""

from __future__ import annotations

from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.published_hdf5 import read_published_hdf5
from dedn_jax.errors import InputError


def load_dataset(config: ConfigDict) -> GZSLDataset:
    """Loads the data set that `config.data` names.

    Raises:
      InputError: no path, or a file that cannot be used (see `read_published_hdf5`).
    """
    data = config.data
    if data.format == "demo":
        # Here: only the demo needs the drawing code and, for its filter bank, JAX.
        from dedn_jax.data.demo.dataset import load_demo

        return load_demo(data)
    if data.format != "published_hdf5":
        raise InputError(f"config.data.format={data.format!r}, expected published_hdf5 or demo")
    if not data.path:
        raise InputError(
            "config.data.path is empty; set --config.data.path to the HDF5 file of feature maps, "
            "or use --config.data.format=demo"
        )
    return read_published_hdf5(
        data.path,
        dtype=data.dtype,
        memory_map=data.memory_map,
        clip_negative_embeddings=data.clip_negative_embeddings,
        word_vectors=data.word_vectors,
    )
