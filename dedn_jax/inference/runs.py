"""What can be done with a finished run: evaluate it, export it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.interop.convert import state_to_nested, with_experts
from dedn_jax.interop.published import (
    from_published,
    to_published,
)
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.torch_files import read_state_dict, write_state_dict
from dedn_jax.training.checkpoint import load_params
from dedn_jax.training.compilation_cache import use_compilation_cache
from dedn_jax.training.network import Network, experts_of, make_network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.protocol import evaluate_params
from dedn_jax.training.workdir import Workdir


class Run(NamedTuple):
    """A run's config, data and model definition, with parameters of the right structure.

    Attributes:
      network: definition, what is not trained, and initial parameters, whose structure and shapes
        are those of the trained ones.
    """

    workdir: Workdir
    config: ConfigDict
    dataset: GZSLDataset
    groups: AttributeGroups
    network: Network


def open_run(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Loads what a work directory names.

    Args:
      path: work directory.
      overrides: `--config.data.path=...` and the like, see `Workdir.load_config`.

    Raises:
      InputError: no run there, or its data set has changed.
    """
    workdir = Workdir(path)
    config = workdir.load_config(overrides)
    dataset = load_dataset(config)
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network = make_network(config, dataset, groups)
    workdir.check_fingerprint(dataset.fingerprint() | network.fingerprint())
    return Run(workdir, config, dataset, groups, network)


def load_selected(run: Run) -> nnx.State:
    """The parameters that the run selected.

    Raises:
      InputError: the run is not finished.
    """
    return load_params(run.workdir.phase("final") / "selected", run.network.params)


def evaluate_run(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    weights: Path | None = None,
    batch_size: int | None = None,
) -> dict:
    """U, S, H and T1 on the test sets.

    Args:
      path: work directory.
      overrides: see `open_run`.
      weights: a state_dict of the published code to evaluate instead of the run's own model.
      batch_size: images at a time; None: the config's.

    Returns:
      `protocol`, `weights`, `images` (how many were evaluated), `test` (metrics per expert).
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size={batch_size}, expected at least 1")
    run = open_run(path, overrides)
    if batch_size:
        run.config.evaluate.batch_size = batch_size
    use_compilation_cache(run.workdir.path, run.config)
    if weights is None:
        params, protocol = load_selected(run), run.config.selection.protocol
    else:
        nested = from_published(read_state_dict(weights), str(weights))
        params = with_experts(run.network.params, nested, str(weights))
        protocol = "given weights"
    with jax.default_matmul_precision(run.config.model.precision):
        metrics = evaluate_params(run.config, run.dataset, run.groups, run.network, params)
    return {
        "protocol": protocol,
        "weights": str(weights) if weights else "selected",
        "images": len(run.dataset.test_seen) + len(run.dataset.test_unseen),
        "test": metrics,
    }


def export_run(path: str | Path, out: Path, overrides: Sequence[str] = ()) -> None:
    """Writes a run's selected parameters as a state_dict of the published code."""
    run = open_run(path, overrides)
    seen_classes = run.dataset.seen_classes
    seen = np.isin(np.arange(run.dataset.num_classes), seen_classes)
    classes = make_class_space(run.dataset.class_embeddings, seen, run.groups)
    state_dict = to_published(
        state_to_nested(experts_of(load_selected(run))),
        class_embeddings=np.asarray(classes.embeddings),
        seen=seen_classes,
        bias=run.config.loss.bias,
    )
    write_state_dict(out, state_dict)
