"""The training objective and step as pure functions; whoever calls them compiles them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax import losses
from dedn_jax.axes import ALONE, Axes
from dedn_jax.groups import AttributeGroups
from dedn_jax.model.experts import AttributeScores

# What a model without a backbone has besides its parameters.
NOTHING = nnx.State({})


class ClassSpace(NamedTuple):
    """The classes a model chooses among.

    Attributes:
      embeddings: Z, `[classes, attributes]` float32: columns in group order, rows L2-normalised.
      seen: `[classes]` bool.
    """

    embeddings: jax.Array
    seen: jax.Array


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
      inputs: `[batch, channels, regions]` feature maps, or `[batch, height, width, 3]` uint8
        pictures where the model has a backbone.
      labels: `[batch]` int32.
      weights: `[batch]` float32: 0 for rows that only fill the batch up, 1 for images; None where
        all rows are images.
    """

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array | None = None


class TrainState(NamedTuple):
    """All that changes from step to step."""

    step: jax.Array
    params: nnx.State
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True)
class Objective:
    """Which losses, with which weights; the fields of `config.loss`."""

    bias: float
    margin_aware: bool
    margin: float
    seen_margin: float
    calibration_weight: float
    agreement_weight: float
    alignment_weight: float
    kl_weight: float
    kl_temperature: float
    kl_stop_gradient: bool

    @classmethod
    def from_config(cls, config: ConfigDict) -> Objective:
        return cls(**config.loss.to_dict())


def make_class_space(
    class_embeddings: np.ndarray, seen: np.ndarray, groups: AttributeGroups
) -> ClassSpace:
    """Z from `[classes, attributes]` embeddings: group order, then unit rows."""
    z = np.asarray(class_embeddings, np.float32)[:, groups.order]
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return ClassSpace(jnp.asarray(z), jnp.asarray(seen))


def objective_terms(
    coarse: AttributeScores,
    fine: AttributeScores,
    labels: jax.Array,
    classes: ClassSpace,
    objective: Objective,
    mean: losses.BatchMean = losses.MEAN,
) -> dict[str, jax.Array]:
    """Every loss term, and their weighted sum as `loss`; scalars, means over images by `mean`.

    Terms with weight 0 are not computed, except the agreement and the calibration, which are worth
    watching in every run.
    """
    o = objective
    terms: dict[str, jax.Array] = {}
    scores = {}
    total = jnp.zeros((), jnp.float32)
    for name, attribute_scores in (("coarse", coarse), ("fine", fine)):
        s = losses.class_scores(
            attribute_scores.for_training(), classes.embeddings, classes.seen, o.bias
        )
        terms[f"cross_entropy_{name}"] = losses.margin_cross_entropy(
            s,
            labels,
            classes.seen,
            bias=o.bias,
            margin=o.margin if o.margin_aware else 0.0,
            seen_margin=o.seen_margin if o.margin_aware else 0.0,
            mean=mean,
        )
        terms[f"calibration_{name}"] = losses.self_calibration(s, classes.seen, mean)
        terms[f"alignment_{name}"] = losses.agreement(
            attribute_scores.region, attribute_scores.channel, mean
        )
        total += terms[f"cross_entropy_{name}"]
        # A weight of 0 leaves the term out: 0 · inf is NaN, and a mass of 0 has an infinite log.
        if o.calibration_weight:
            total += o.calibration_weight * terms[f"calibration_{name}"]
        if o.alignment_weight:
            total += o.alignment_weight * terms[f"alignment_{name}"]
        scores[name] = s
    terms["agreement"] = losses.agreement(scores["coarse"], scores["fine"], mean)
    if o.agreement_weight:
        total += o.agreement_weight * terms["agreement"]
    if o.kl_weight:
        terms["bidirectional_kl"] = losses.bidirectional_kl(
            scores["coarse"],
            scores["fine"],
            temperature=o.kl_temperature,
            stop_gradient=o.kl_stop_gradient,
            mean=mean,
        )
        total += o.kl_weight * terms["bidirectional_kl"]
    return {"loss": total, **terms}


def loss_and_gradients(
    model: nnx.GraphDef,
    params: nnx.State,
    batch: Batch,
    classes: ClassSpace,
    objective: Objective,
    frozen: nnx.State = NOTHING,
    axes: Axes = ALONE,
) -> tuple[dict[str, jax.Array], nnx.State]:
    """Loss terms, and the gradient of their weighted sum in `params`; none in `frozen`.

    Under `axes` both are of the whole batch and the same on every device; one all-reduce makes them
    so.
    """
    mean = losses.BatchMean(batch.weights, axes.data)

    def loss(params: nnx.State) -> tuple[jax.Array, dict[str, jax.Array]]:
        coarse, fine = nnx.merge(model, params, frozen)(batch.inputs, axes.rows)
        terms = objective_terms(coarse, fine, batch.labels, classes, objective, mean)
        if axes.rows is not None:
            # Devices that share out the rows of the same images all get these terms: each has an
            # equal part of them, so that terms and gradients add up.
            terms = {name: term / axes.rows.devices for name, term in terms.items()}
        return terms["loss"], terms

    (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.lax.psum((terms, gradients), axes.names) if axes.names else (terms, gradients)


TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axes: Axes = ALONE,
) -> TrainStep:
    """The step `(state, batch, classes, frozen) -> (state, metrics)`; pure, not compiled.

    `axes` as in `loss_and_gradients`. `frozen` holds what the model has besides `state.params`; it
    may be left out if that is nothing.
    """

    def train_step(
        state: TrainState, batch: Batch, classes: ClassSpace, frozen: nnx.State = NOTHING
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        terms, gradients = loss_and_gradients(
            model, state.params, batch, classes, objective, frozen, axes
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        terms["gradient_norm"] = optax.tree.norm(gradients)
        terms["parameter_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, optimizer_state), terms

    return train_step


def loop_steps(
    one: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    count: jax.Array,
    most: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Steps 0 to `count - 1` in one program, compiled once for every count up to `most`.

    Args:
      one: the step with that number: `(state, number) -> (state, metrics)`.
      state: before the first.
      count: how many, int32.
      most: how many at most.

    Returns:
      The state, and metrics with a leading axis of `most`, zero from `count` on.
    """
    shapes = jax.eval_shape(one, state, 0)[1]
    metrics = jax.tree.map(lambda s: jnp.zeros((most, *s.shape), s.dtype), shapes)

    def body(i: jax.Array, carry: Any) -> Any:
        state, metrics = carry
        state, terms = one(state, i)
        return state, jax.tree.map(lambda m, t: m.at[i].set(t), metrics, terms)

    return jax.lax.fori_loop(0, count, body, (state, metrics))


def init_state(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How predictions are fused: `config.predict` and the bias of `config.loss`."""

    region_mix: float
    expert_mix: float
    bias: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> Mixing:
        return cls(config.predict.region_mix, config.predict.expert_mix, config.loss.bias)


class ClassScores(NamedTuple):
    """Class scores `[batch, classes]` of each expert and of their mixture, d included."""

    coarse: jax.Array
    fine: jax.Array
    fused: jax.Array


def predict_scores(
    model: nnx.GraphDef,
    params: nnx.State,
    inputs: jax.Array,
    classes: ClassSpace,
    mixing: Mixing,
    frozen: nnx.State = NOTHING,
    axes: Axes = ALONE,
) -> ClassScores:
    """Class scores for evaluation: branches mixed by `region_mix`, experts by `expert_mix`."""
    coarse, fine = (
        losses.class_scores(
            p.for_evaluation(mixing.region_mix), classes.embeddings, classes.seen, mixing.bias
        )
        for p in nnx.merge(model, params, frozen)(inputs, axes.rows)
    )
    fused = mixing.expert_mix * coarse + (1.0 - mixing.expert_mix) * fine
    return ClassScores(coarse, fine, fused)
