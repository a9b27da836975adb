"""The training step as a pure function; whoever calls it compiles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dedn_jax.data.pipeline import Batch
from dedn_jax.model import losses
from dedn_jax.model.distillation import Peers
from dedn_jax.model.experts import DualExpert
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.training.objective import ClassSpace, Objective, objective_terms

# The frozen state of a model that has none: experts without a backbone.
NONE_FROZEN: nnx.State = nnx.State({})

LossTerms = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: number of steps taken.
      params: of the model, those that are trained.
      optimizer: state of the optimizer.
    """

    step: Int[Array, ""]
    params: nnx.State
    optimizer: optax.OptState


def loss_and_gradients(
    model: nnx.GraphDef,
    params: nnx.State,
    batch: Batch,
    classes: ClassSpace,
    objective: Objective,
    frozen: nnx.State = NONE_FROZEN,
    axes: Axes = ALONE,
    step: Int[Array, ""] | int = 0,
) -> tuple[LossTerms, nnx.State]:
    """Loss terms, and the gradient of their weighted sum with respect to `params`.

    Under `axes` both are those of the global batch, replicated by one all-reduce. `step`, the
    number of steps taken before, decides where schedules are and which regions are dropped.
    """
    mean = losses.BatchMean(batch.weights, axes.data)
    step = jnp.asarray(step, jnp.int32)

    def loss(params: nnx.State) -> tuple[Float[Array, ""], LossTerms]:
        module = nnx.merge(model, params, frozen)
        experts: DualExpert = getattr(module, "experts", module)
        maps = module.maps(batch.inputs)
        distillation = objective.distillation
        dropped = None
        if share := distillation.dropped_share:
            masks = kept_regions(distillation.seed, step, maps, share, axes.data)
            dropped = experts(maps * masks[:, None].astype(maps.dtype), axes.rows)
        peers = Peers.of(
            attributes=experts(maps, axes.rows),
            embeddings=classes.embeddings,
            seen=classes.seen,
            labels=batch.labels,
            bias=objective.bias,
            group_sizes=experts.group_sizes,
            mean=mean,
            dropped=dropped,
            heads=experts.head_matrices(),
        )
        terms = objective_terms(peers, objective, distillation.factor(step))
        if axes.rows is not None:
            # After the gather every device along this axis has the same terms: dividing them makes
            # their sum, and that of the gradients, right.
            terms = {name: term / axes.rows.num_shards for name, term in terms.items()}
        return terms["loss"], terms

    (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.lax.psum((terms, gradients), axes.names) if axes.names else (terms, gradients)


def kept_regions(
    seed: int,
    step: Int[Array, ""],
    maps: Float[Array, "batch channels *regions"],
    dropped: float,
    axis: str | None,
) -> Bool[Array, "batch regions"]:
    """Which regions of each image are not dropped in a step, whatever devices the batch is on.

    Args:
      seed: of the run.
      step: number of steps taken before.
      maps: of this device's images.
      dropped: share of regions that are dropped.
      axis: along which the batch is sharded.
    """
    first = 0 if axis is None else jax.lax.axis_index(axis) * len(maps)
    key = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, first + i))(jnp.arange(len(maps)))
    return jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - dropped, maps.shape[2:]))(keys)


TrainStep = Callable[..., tuple[TrainState, LossTerms]]


def make_train_step(
    model: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    axes: Axes = ALONE,
) -> TrainStep:
    """The step `(state, batch, classes, frozen) -> (state, terms)`; pure, not compiled.

    `terms` are the loss terms before the step, `gradient_norm`, and `parameter_norm` after it.
    `frozen` is the model's state besides `state.params`, by default none.

    Args:
      model: its definition.
      objective: which losses.
      optimizer: of `make_optimizer`.
      axes: mapped axes that the step runs under; see `loss_and_gradients`.
    """

    def train_step(
        state: TrainState, batch: Batch, classes: ClassSpace, frozen: nnx.State = NONE_FROZEN
    ) -> tuple[TrainState, LossTerms]:
        terms, gradients = loss_and_gradients(
            model, state.params, batch, classes, objective, frozen, axes, state.step
        )
        factor = objective.distillation.factor(state.step)
        if factor is not None:
            terms["distillation_factor"] = factor
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = cast(nnx.State, optax.apply_updates(state.params, updates))
        terms["gradient_norm"] = optax.tree.norm(gradients)
        terms["parameter_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, optimizer_state), terms

    return train_step


def init_state(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
