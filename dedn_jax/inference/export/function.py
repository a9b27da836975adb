"""The function that an exported file holds, and what is said of it beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8

from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.model import from_pictures
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.norms import MIN_NORM
from dedn_jax.model.picture_model import normalize_regions
from dedn_jax.training.run import TrainingRun
from dedn_jax.version import __version__

InputKind = Literal["auto", "pictures", "features"]
INPUTS = ("inputs", "class_embeddings", "unseen", "gamma")
OUTPUTS = ("class_scores", "coarse_attributes", "fine_attributes")


class Exportable(NamedTuple):
    """A finished run's model as one function.

    Attributes:
      function: `(inputs, class_embeddings, unseen, gamma)` to `(class_scores, coarse_attributes,
        fine_attributes)`, float32: inputs `[batch, *input_shape]`; class embeddings `[classes,
        attributes]` as they are in the data set, not normalised; unseen `[classes]`, 1 for unseen
        classes and 0 for seen ones; gamma a scalar. Class scores `[batch, classes]` are those of
        both experts' mixture, with gamma added to the unseen classes; attribute scores `[batch,
        attributes]` are those of each expert, attributes in the data set's order.
      input_shape: of one image.
      input_dtype: uint8 pictures, or float32 feature maps, which need not be normalised.
      candidates: the run's classes.
      gamma: the calibrated or fixed one.
      description: JSON-ready: what whoever loads the file needs to know.
    """

    function: Callable[..., tuple[Array, Array, Array]]
    input_shape: tuple[int, ...]
    input_dtype: np.dtype
    candidates: Candidates
    gamma: float
    description: dict[str, Any]

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the function's arguments, for any number of images and classes."""
        batch, classes = export.symbolic_shape("batch, classes")
        attributes = len(self.candidates.attribute_names)
        return (
            jax.ShapeDtypeStruct((batch, *self.input_shape), self.input_dtype),
            jax.ShapeDtypeStruct((classes, attributes), jnp.float32),
            jax.ShapeDtypeStruct((classes,), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.float32),
        )

    def examples(self, batch: int = 3) -> tuple[np.ndarray, ...]:
        """Inputs to try the function with: made-up images, the run's own classes and gamma."""
        rng = np.random.default_rng(0)
        shape = (batch, *self.input_shape)
        inputs = (
            rng.integers(0, 256, shape, dtype=np.uint8)
            if self.input_dtype == np.uint8
            else rng.random(shape, np.float32)
        )
        unseen = (~self.candidates.seen).astype(np.float32)
        gamma = np.asarray(self.gamma, np.float32)
        return inputs, self.candidates.embeddings, unseen, gamma


def exportable(run: TrainingRun, kind: InputKind = "auto") -> Exportable:
    """The model of a finished run as one function of arrays.

    Args:
      run: a finished run.
      kind: what the function takes; auto: pictures where the run has a backbone or
        `config.backbone.weights` names one, else feature maps.

    Raises:
      InputError: the run is not finished, or has no such model; see
        `dedn_jax.inference.model.from_pictures`.
    """
    inputs = run.outline.inputs
    if kind == "features" and isinstance(inputs, Pictures):
        raise InputError(
            "--input=features: the run was trained from pictures; give --input=pictures"
        )
    from_maps = takes_feature_maps(run, kind)
    transform = None
    model: Callable[..., Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    if from_maps:
        assert not isinstance(inputs, Pictures)
        experts = run.model
        assert isinstance(experts, DualExpert)
        shape, dtype = (inputs.channels, inputs.regions), np.dtype(np.float32)
        model = _normalizing(experts)
    else:
        found = from_pictures(run)
        experts, transform = found.model.experts, found.transform
        side = transform.crop
        shape, dtype = (side, side, 3), np.dtype(np.uint8)
        model = found.model
    # XLA's own operations: a kernel of ours is one platform's. In the form for CPUs, which is the
    # quickest there and runs anywhere, and in float32: not every CPU has instructions for bfloat16.
    experts.kernel = "cpu"
    candidates, mixing = Candidates.of_run(run), run.mixing()
    position = np.argsort(run.groups.order)  # of the data set's attributes in group order

    def function(
        inputs: Float[Array, "batch channels regions"] | UInt8[Array, "batch height width 3"],
        class_embeddings: Float[Array, "classes attributes"],
        unseen: Float[Array, " classes"],
        gamma: Float[Array, ""],
    ) -> tuple[Array, Array, Array]:
        coarse, fine = (
            expert.for_evaluation(mixing.region_mix)[:, position] for expert in model(inputs)
        )
        norm = jnp.sqrt(jnp.square(class_embeddings).sum(axis=1, keepdims=True))
        z = class_embeddings / jnp.maximum(norm, MIN_NORM)
        mixed = mixing.expert_mix * coarse + (1.0 - mixing.expert_mix) * fine
        return mixed @ z.T + gamma * unseen, coarse, fine

    description = {
        "format": "dedn-jax",
        "version": __version__,
        "inputs": dict(zip(INPUTS, _described(shape, dtype), strict=True)),
        "outputs": dict(zip(OUTPUTS, _OUTPUTS, strict=True)),
        "gamma": mixing.gamma,
        "expert_mix": mixing.expert_mix,
        "region_mix": mixing.region_mix,
        "calibrated": run.calibration is not None,
        "class_names": list(candidates.names),
        "attribute_names": list(candidates.attribute_names),
        "transform": transform and transform.fixed(),
    }
    return Exportable(function, shape, dtype, candidates, mixing.gamma, description)


def takes_feature_maps(run: TrainingRun, kind: InputKind) -> bool:
    """Whether the function takes feature maps rather than pictures; see `exportable`."""
    return not isinstance(run.outline.inputs, Pictures) and (
        kind == "features" or (kind == "auto" and not run.config.backbone.weights)
    )


_OUTPUTS = (
    "float32 [batch, classes]: gamma is added to unseen classes",
    "float32 [batch, attributes]",
    "float32 [batch, attributes]",
)


def _described(shape: tuple[int, ...], dtype: np.dtype) -> tuple[str, ...]:
    sizes = ", ".join(map(str, shape))
    of = "pictures, RGB" if dtype == np.uint8 else "feature maps, [channels, regions] each"
    return (
        f"{dtype} [batch, {sizes}]: {of}",
        "float32 [classes, attributes]: as in classes.npz, not normalised",
        "float32 [classes]: 1 for unseen classes, 0 for seen ones",
        "float32 []: what unseen classes are given",
    )


def _normalizing(experts: DualExpert) -> Callable[..., Any]:
    def model(maps: Float[Array, "batch channels regions"]) -> Any:
        return experts(normalize_regions(maps))

    return model


def check_outputs(
    expected: tuple[np.ndarray, ...], found: tuple[np.ndarray, ...], tolerance: float, where: str
) -> None:
    """Checks that a file gives what the run's model gives.

    Raises:
      InputError: it differs by more than `tolerance` times the largest value.
    """
    for name, e, f in zip(OUTPUTS, expected, found, strict=True):
        e, f = np.asarray(e), np.asarray(f)
        error = float(np.abs(e - f).max() / max(np.abs(e).max(), 1e-30))
        if not error <= tolerance:
            raise InputError(
                f"{where}: its {name} differ from the model's by {error:.1e} of the largest, "
                f"expected at most {tolerance:.0e}; nothing was written"
            )
