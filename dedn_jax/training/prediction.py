"""Class scores for evaluation, of each expert and of their mixture."""

from __future__ import annotations

import dataclasses
from typing import Generic, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from dedn_jax.model import losses
from dedn_jax.model.experts import AttributeScores, PerExpert
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.training.objective import ClassSpace
from dedn_jax.training.step import NONE_FROZEN

A = TypeVar("A", Array, np.ndarray)  # on the devices, or on the host


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How attribute scores become the class scores that a prediction is made by.

    Attributes:
      region_mix: the region branch's share of an attribute score.
      expert_mix: the coarse expert's share of a class score.
      bias: added to unseen class scores, subtracted from seen ones.
    """

    region_mix: float
    expert_mix: float
    bias: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> Mixing:
        """The fixed one of `config.predict` and `config.loss.bias`.

        What the model lacks, an expert or a branch, has no share.
        """
        region_mix = {"region": 1.0, "channel": 0.0}.get(config.model.branches)
        expert_mix = {"coarse": 1.0, "fine": 0.0}.get(config.model.experts)
        return cls(
            config.predict.region_mix if region_mix is None else region_mix,
            config.predict.expert_mix if expert_mix is None else expert_mix,
            config.loss.bias,
        )

    @property
    def gamma(self) -> float:
        """What unseen classes are given over seen ones: the gamma of calibrated stacking."""
        return 2.0 * self.bias

    def to_json(self) -> dict[str, float]:
        """Gamma and the mixes."""
        return {
            "gamma": self.gamma,
            "expert_mix": self.expert_mix,
            "region_mix": self.region_mix,
        }


class ClassScores(NamedTuple):
    """Class scores of each expert and of their mixture, d included."""

    coarse: Float[Array, "batch classes"]
    fine: Float[Array, "batch classes"]
    fused: Float[Array, "batch classes"]


class Choices(NamedTuple, Generic[A]):
    """What the experts choose, `[batch, 3]`: coarse, fine, fused; or one of them, `[batch]`.

    Attributes:
      among_all: class ids of the task, chosen among all classes (GZSL).
      among_seen, among_unseen: chosen among the seen classes, and among the unseen alone (ZSL).
      gap: best score among the seen minus best among the unseen classes, without any bias: an
        unseen class is chosen where gamma is larger. Infinite where there are no classes of a kind.
    """

    among_all: A
    among_seen: A
    among_unseen: A
    gap: A


class BranchScores(NamedTuple, Generic[A]):
    """Scores of every branch, without any bias: coarse region and channel, fine region and channel.

    Attributes:
      attributes: `[batch, 4, attributes]`, in group order.
      classes: `[batch, 4, classes]`.
    """

    attributes: A
    classes: A


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
    return _mixed(nnx.merge(model, params, frozen)(inputs, axes.rows), classes, mixing)


def predict_branches(
    model: nnx.GraphDef,
    params: nnx.State,
    inputs: Float[Array, "batch channels regions"] | UInt8[Array, "batch height width 3"],
    classes: ClassSpace,
    mixing: Mixing,
    frozen: nnx.State = NONE_FROZEN,
    axes: Axes = ALONE,
) -> tuple[Choices[Array], BranchScores[Array]]:
    """What each expert and their mixture choose, and the scores of every branch.

    Arguments as for `predict_scores`.
    """
    experts = nnx.merge(model, params, frozen)(inputs, axes.rows)
    attributes = jnp.stack([branch for expert in experts for branch in expert], axis=1)
    products = jnp.einsum(
        "bxa,ka->bxk", attributes, classes.embeddings, preferred_element_type=jnp.float32
    )
    return _choices(experts, classes, mixing), BranchScores(attributes, products)


def _mixed(experts: PerExpert[AttributeScores], classes: ClassSpace, mixing: Mixing) -> ClassScores:
    coarse, fine = (
        losses.class_scores(
            p.for_evaluation(mixing.region_mix), classes.embeddings, classes.seen, mixing.bias
        )
        for p in experts
    )
    fused = mixing.expert_mix * coarse + (1.0 - mixing.expert_mix) * fine
    return ClassScores(coarse, fine, fused)


def _choices(
    experts: PerExpert[AttributeScores], classes: ClassSpace, mixing: Mixing
) -> Choices[Array]:
    # Without a bias, of which a large one would round the scores away.
    scores = _mixed(experts, classes, dataclasses.replace(mixing, bias=0.0))
    stacked = jnp.stack(scores, axis=1)
    seen = jnp.where(classes.seen, stacked, -jnp.inf)
    unseen = jnp.where(classes.seen, -jnp.inf, stacked)
    gap = seen.max(-1) - unseen.max(-1)
    among_seen, among_unseen = seen.argmax(-1), unseen.argmax(-1)
    return Choices(
        jnp.where(gap < mixing.gamma, among_unseen, among_seen), among_seen, among_unseen, gap
    )
