"""What is given from Python in place of flags: a work directory, and a data set from arrays."""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import check_type


def check_place(name: str, workdir: object, dataset: object) -> None:
    """Raises InputError unless these can be a work directory and what is trained on in it."""
    check_type(name, workdir, str | os.PathLike, "the path of a work directory")
    check_type("dataset", dataset, GZSLDataset | None, "a dedn_jax.GZSLDataset or None")


def config_with(config: ConfigDict, dataset: GZSLDataset | None) -> ConfigDict:
    """The config as it is kept: of a data set from arrays, without the path of a file that was
    never read.
    """
    if dataset is None or not dataset.given:
        return config
    config = config.copy_and_resolve_references()
    config.data.path = ""
    return config
