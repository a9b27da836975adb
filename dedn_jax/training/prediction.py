"""Class scores for evaluation, of each expert and of their mixture."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from dedn_jax.model import losses
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.training.objective import ClassSpace
from dedn_jax.training.step import NONE_FROZEN


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How class scores are computed for evaluation: `config.predict` and `config.loss.bias`."""

    region_mix: float
    expert_mix: float
    bias: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> Mixing:
        return cls(config.predict.region_mix, config.predict.expert_mix, config.loss.bias)


class ClassScores(NamedTuple):
    """Class scores of each expert and of their mixture, d included."""

    coarse: Float[Array, "batch classes"]
    fine: Float[Array, "batch classes"]
    fused: Float[Array, "batch classes"]


def predict_scores(
    model: nnx.GraphDef,
    params: nnx.State,
    inputs: Float[Array, "batch channels regions"] | UInt8[Array, "batch height width 3"],
    classes: ClassSpace,
    mixing: Mixing,
    frozen: nnx.State = NONE_FROZEN,
    axes: Axes = ALONE,
) -> ClassScores:
    """Class scores for evaluation: branches mixed by `region_mix`, experts by `expert_mix`.

    Args:
      model: its definition.
      params, frozen: its state.
      inputs: feature maps, or pictures where the model has a backbone.
      classes: to choose among.
      mixing: weights of branches and experts.
      axes: mapped axes that the prediction runs under.
    """
    coarse, fine = (
        losses.class_scores(
            p.for_evaluation(mixing.region_mix), classes.embeddings, classes.seen, mixing.bias
        )
        for p in nnx.merge(model, params, frozen)(inputs, axes.rows)
    )
    fused = mixing.expert_mix * coarse + (1.0 - mixing.expert_mix) * fine
    return ClassScores(coarse, fine, fused)


def predict_classes(
    model: nnx.GraphDef,
    params: nnx.State,
    inputs: Float[Array, "batch channels regions"] | UInt8[Array, "batch height width 3"],
    classes: ClassSpace,
    mixing: Mixing,
    frozen: nnx.State = NONE_FROZEN,
    axes: Axes = ALONE,
) -> tuple[Int[Array, "3 batch"], Int[Array, "3 batch"]]:
    """Class ids for coarse, fine and fused; arguments as for `predict_scores`.

    Returns:
      Predicted among all classes (GZSL), and among the unseen alone (ZSL).
    """
    scores = jnp.stack(predict_scores(model, params, inputs, classes, mixing, frozen, axes))
    among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
    return scores.argmax(-1), among_unseen.argmax(-1)
