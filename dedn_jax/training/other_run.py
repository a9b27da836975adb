"""Finished runs that a config names: what may be taken from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import flat_fields
from dedn_jax.errors import InputError
from dedn_jax.training.workdir import Workdir

# What has to be the same for both to have set the same classes and images apart.
_SPLIT = ("seed", "selection.validation_classes", "selection.validation_images")


def finished_run(field: str, path: str) -> tuple[Workdir, ConfigDict]:
    """The work directory that a field of a config names, and the config of its run.

    Raises:
      InputError: no run, or one that is not finished.
    """
    workdir = Workdir(path)
    if not workdir.config_file.is_file():
        raise InputError(
            f"{field}={path}: holds no run (no {workdir.config_file.name}); give the folder of a "
            "`dedn train`"
        )
    config = workdir.load_config()
    if not workdir.result_file.is_file():
        raise InputError(f"{field}={path}: the run is not finished; finish it first")
    return workdir, config


def phases_alike(field: str, path: str, theirs: ConfigDict, ours: ConfigDict) -> list[str]:
    """The phases of ours; in each, the other run on the same data set saw no class that ours hides.

    Raises:
      InputError: it set other classes or images apart for validation, or none.
    """
    if ours.selection.protocol != "validation":
        return ["final"]
    there, here = flat_fields(theirs.to_dict()), flat_fields(ours.to_dict())
    differing = [f for f in _SPLIT if there[f] != here[f]]
    if theirs.selection.protocol != "validation" or differing:
        what = ", ".join(f"{f}={there[f]!r} there, {here[f]!r} here" for f in differing)
        raise InputError(
            f"{field}={path}: it must have set the same validation classes and images apart, "
            f"but {what or 'its protocol is ' + theirs.selection.protocol}; train it with the same "
            "seed and protocol validation"
        )
    return ["final", "validation"]


def params_digest(params: Mapping[str, nnx.State]) -> str:
    """A hash of parameters by phase, for what a run records."""
    digest = hashlib.sha256()
    for phase in sorted(params):
        for leaf in jax.tree.leaves(params[phase]):
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
