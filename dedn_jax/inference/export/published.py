"""Weights of the published PyTorch model, from a file into a run and from a run into a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.inference.export.backbone import trained_backbone
from dedn_jax.interop.convert import state_to_nested, with_experts
from dedn_jax.interop.published import from_published, to_published
from dedn_jax.torch_files import read_state_dict, write_state_dict
from dedn_jax.training.network import experts_of
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.run import TrainingRun


def read_published_weights(run: TrainingRun, path: Path) -> nnx.State:
    """Parameters for `run.evaluate`, with the experts of a published `state_dict`.

    A backbone, which a published file does not have, is the run's own: as the run trained it,
    where it did.

    Examples:
      >>> export_published_weights(run, Path("mine.pt"))
      >>> run.evaluate(read_published_weights(run, Path("mine.pt"))) == run.result["test"]
      True

    Raises:
      InputError: not a `state_dict` of the published model, one of other sizes than the run's, a
        run whose model lacks an expert or a branch, or one whose trained backbone is not finished.
    """
    _check_parts(run)
    nested = from_published(read_state_dict(path), str(path))
    params = run.params if trained_backbone(run) else run.network.params
    return with_experts(params, nested, str(path))


def export_published_weights(run: TrainingRun, path: Path) -> None:
    """Writes the selected experts of a run as a `state_dict` that the published code loads.

    It takes feature maps: what is not in the file, `left_out` says.

    Examples:
      >>> export_published_weights(run, Path("mine.pt"))
      >>> Path("mine.pt").is_file()
      True

    Raises:
      InputError: the run is not finished, its model lacks an expert or a branch, PyTorch is
        missing, or the file cannot be written.
    """
    _check_parts(run)
    data = run.outline
    classes = make_class_space(data.class_embeddings, data.seen, run.groups)
    state_dict = to_published(
        state_to_nested(experts_of(run.params)),
        class_embeddings=np.asarray(classes.embeddings),
        seen=data.seen_classes,
        bias=run.config.loss.bias,
    )
    write_state_dict(path, state_dict)


def _check_parts(run: TrainingRun) -> None:
    for field in ("experts", "branches"):
        if run.config.model[field] != "both":
            raise InputError(
                f"{run.workdir.config_file}: config.model.{field}={run.config.model[field]!r}: the "
                "published code always has both; use safetensors"
            )
