"""The parameters that a training starts from: drawn by the seed, or those of a finished run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError
from dedn_jax.training.checkpoint import load_params, saved_shapes
from dedn_jax.training.network import BACKBONE_WEIGHTS, INIT_FROM, Network
from dedn_jax.training.other_run import finished_run, params_digest, phases_alike
from dedn_jax.training.phase import STREAMS

_FIELD = "config.train.init_from"
_WORD_VECTORS = "word_vectors"


@dataclasses.dataclass(frozen=True)
class Initial:
    """Parameters to start from.

    Attributes:
      params: by phase.
      sha256: of those of another run; None: they are of this run's seed.
    """

    params: dict[str, nnx.State]
    sha256: str | None = None

    def fingerprint(self) -> dict[str, object]:
        """For what a run records; JSON-ready."""
        return {} if self.sha256 is None else {INIT_FROM: self.sha256}


def initial_params(config: ConfigDict, dataset: GZSLDataset, network: Network) -> Initial:
    """What the phases of a run start from.

    Of a run on the same data set that `config.train.init_from` names, a validation phase takes the
    parameters of its validation phase, which never saw the validation classes either. Of a run on
    another one all phases take its final parameters, and keep the word vectors of their own
    attributes.

    Raises:
      InputError: no finished run, or one of another split or model.
    """
    path = config.train.init_from
    if not path:
        return Initial(dict.fromkeys(STREAMS, network.params))
    workdir, theirs = finished_run(_FIELD, path)
    recorded = workdir.recorded_dataset() or {}
    ours = network.fingerprint().get(BACKBONE_WEIGHTS)
    if config.backbone.trained and recorded.get(BACKBONE_WEIGHTS) != ours:
        raise InputError(
            f"{_FIELD}={path}: its backbone began with other weights, whose statistics would not "
            "fit; give the file that it names as --config.backbone.weights"
        )
    here = dataset.annotations_fingerprint()
    phases = ["final"]
    if all(recorded.get(name) == value for name, value in here.items()):
        phases = phases_alike(_FIELD, path, theirs, config)
    same_words = recorded.get(_WORD_VECTORS) == here[_WORD_VECTORS]
    found = {
        phase: _loaded(workdir.phase(phase) / "selected", network.params, same_words)
        for phase in phases
    }
    return Initial(dict.fromkeys(STREAMS, found["final"]) | found, params_digest(found))


def _loaded(directory: Path, ours: nnx.State, same_words: bool) -> nnx.State:
    """The parameters that a phase selected, in the structure of ours."""
    there = saved_shapes(directory)
    here = {_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(ours)}

    def kept(name: str) -> bool:
        return not same_words and name.endswith(_WORD_VECTORS)

    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name) and not (kept(name) and name in there):
            raise InputError(
                f"{_FIELD}: {directory} is of another model: {name} has shape "
                f"{there.get(name, 'none')} there, {here.get(name, 'none')} here; it takes feature "
                "maps of the same shape, and the same groups, experts, branches, rank and backbone"
            )

    def like(path: Any, leaf: Any) -> Any:
        shape = there[_name(path)]
        return leaf if leaf.shape == shape else jnp.zeros(shape, leaf.dtype)

    found = load_params(directory, jax.tree.map_with_path(like, ours))
    return jax.tree.map_with_path(lambda p, a, b: b if kept(_name(p)) else a, found, ours)


def _name(path: Any) -> str:
    """As `saved_shapes` names it."""
    return ".".join(str(getattr(step, "key", getattr(step, "name", step))) for step in path[:-1])
