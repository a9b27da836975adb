"""The training step as a pure function; whoever calls it compiles it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from dedn_jax.data.pipeline import Batch
from dedn_jax.model import losses
from dedn_jax.model.attention.indexed import IndexedMaps, as_array
from dedn_jax.model.column_shards import has_column_shards, is_summed
from dedn_jax.model.distillation import Peers
from dedn_jax.model.experts import DualExpert, is_folded
from dedn_jax.model.gradients import summed_gradient
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.packing import Packed, pack, unpack
from dedn_jax.training.averaging import Averaged
from dedn_jax.training.objective import ClassSpace, Objective, objective_terms
from dedn_jax.training.optimizer import Optimizer
from dedn_jax.training.views import Mixed, kept_regions, mixed_maps, mixing

# The frozen state of a model that has none: experts without a backbone.
NONE_FROZEN: nnx.State = nnx.State({})

LossTerms = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: number of steps taken.
      params: of the model, those that are trained; an executor may have them packed.
      optimizer: state of the optimizer.
    """

    step: Int[Array, ""]
    params: nnx.State
    optimizer: optax.OptState

    @property
    def evaluated(self) -> nnx.State:
        """The parameters that are evaluated, selected and saved: averaged ones if there are."""
        return self.optimizer.average if isinstance(self.optimizer, Averaged) else self.params


class ModelState(NamedTuple):
    """What a model's experts are computed from, besides its definition and a batch.

    Attributes:
      params, frozen: of its network.
      classes: to choose among, attributes in the group order of the model.
    """

    params: nnx.State
    frozen: nnx.State
    classes: ClassSpace


class _View(NamedTuple):
    """How a step looks at its batch.

    Attributes:
      step: number of steps taken before.
      mixed: with what the images are mixed, if they are.
      mean: the mean over images.
      axes: mapped axes that the step runs under.
      sum_rows: whether gradients are summed over devices as those of the folded rows.
    """

    step: Int[Array, ""]
    mixed: Mixed | None
    mean: losses.BatchMean
    axes: Axes
    sum_rows: bool


def loss_and_gradients(
    model: nnx.GraphDef,
    params: nnx.State,
    batch: Batch,
    classes: ClassSpace,
    objective: Objective,
    frozen: nnx.State = NONE_FROZEN,
    axes: Axes = ALONE,
    step: Int[Array, ""] | int = 0,
    teacher: tuple[nnx.GraphDef, ModelState] | None = None,
    batch_size: int | None = None,
) -> tuple[LossTerms, nnx.State]:
    """Loss terms, and the gradient of their weighted sum with respect to `params`.

    Under `axes` both are those of the global batch, replicated by one all-reduce. `step`, the
    number of steps taken before, decides where schedules are and what is drawn at random.
    `batch_size` is the number of images of the global batch, where it is known.
    """
    step = jnp.asarray(step, jnp.int32)
    if objective.mixup or objective.distillation.dropped_share or teacher:
        # Looked up once for all that takes them.
        batch = batch._replace(inputs=as_array(batch.inputs))
    mean = losses.BatchMean(batch.weights, axes.data, images=batch_size)
    mixed = None
    if objective.mixup:
        mixed = mixing(objective.seed, step, batch.labels, objective.mixup, mean)
    sum_rows = _rows_are_smaller(model, params, frozen, axes)
    view = _View(step, mixed, mean, axes, sum_rows)
    # A teacher's parameters are replicated.
    whole = view._replace(axes=axes._replace(columns=None))
    taught = _peers(*teacher, batch, objective, whole, dropped=0.0) if teacher else None

    def loss(params: nnx.State) -> tuple[Float[Array, ""], LossTerms]:
        distillation, state = objective.distillation, ModelState(params, frozen, classes)
        peers = _peers(model, state, batch, objective, view, distillation.dropped_share)
        terms = objective_terms(peers, objective, distillation.factor(step), mixed, taught)
        if axes.rows is not None:
            # After the gather every device along this axis has the same terms: dividing them makes
            # their sum, and that of the gradients, right.
            terms = {name: term / axes.rows.num_shards for name, term in terms.items()}
        return terms["loss"], terms

    (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    if not axes.names:
        return terms, gradients
    with jax.named_scope("exchange"):
        done, left = nnx.split_state(gradients, _summed_before(axes, sum_rows), ...)
        terms, left = jax.lax.psum((terms, left), axes.names)
        if axes.rows is not None:
            done = jax.lax.psum(done, axes.rows.axis)
    return terms, nnx.merge_state(done, left)


def _summed_before(axes: Axes, sum_rows: bool) -> Any:
    """A filter of the gradients that are summed along `axes.data` in the backward pass."""
    if axes.columns is not None:
        return is_summed
    return is_folded if sum_rows else nnx.Nothing()


def _norms(trees: Sequence[Any], axes: Axes) -> list[Float[Array, ""]]:
    """The Euclidean norm of each gradient, or state of the parameters, over all devices."""
    if axes.columns is None:
        return [optax.tree.norm(tree) for tree in trees]
    columns: list[Any] = []
    rest: list[Any] = []
    for tree in trees:
        parts = nnx.split_state(tree, has_column_shards, ...)
        for squares, part in zip((columns, rest), parts, strict=True):
            squares.append(optax.tree.norm(part, squared=True))
    columns = jax.lax.psum(columns, axes.columns.axis)
    return [jnp.sqrt(a + b) for a, b in zip(columns, rest, strict=True)]


def _rows_are_smaller(
    model: nnx.GraphDef, params: nnx.State, frozen: nnx.State, axes: Axes
) -> bool:
    """Whether the gradients of the folded rows are less to send than those of what they are from.

    Where rows are sharded, every device unfolds but its own, so that these are summed in any case;
    where columns are, they are summed where columns are gathered.
    """
    if axes.data is None or axes.rows is not None or axes.columns is not None:
        return False
    rows = jax.eval_shape(lambda p: _experts(nnx.merge(model, p, frozen)).rows(), params)
    folded, _ = nnx.split_state(params, is_folded, ...)
    return int(optax.tree.size(rows)) < int(optax.tree.size(folded))


def _experts(module: Any) -> DualExpert:
    return getattr(module, "experts", module)


def _peers(
    model: nnx.GraphDef,
    state: ModelState,
    batch: Batch,
    objective: Objective,
    view: _View,
    dropped: float,
) -> Peers:
    """What a model's experts say of a batch, and of it without a share `dropped` of the regions."""
    module = nnx.merge(model, state.params, state.frozen)
    experts = _experts(module)
    axes, inputs = view.axes, batch.inputs
    maps = inputs if isinstance(inputs, IndexedMaps) else module.maps(inputs)
    if view.mixed is not None:
        maps = mixed_maps(as_array(maps), view.mixed, axes.data)
    rows, without = experts.rows(axes.rows, axes.columns, maps.dtype), None
    if view.sum_rows and axes.data is not None:
        rows = summed_gradient(rows, axes.data)
    if dropped:
        maps = as_array(maps)
        kept = kept_regions(objective.seed, view.step, maps, dropped, axes.data)
        without = experts.pool(rows, maps * kept[:, None].astype(maps.dtype), axes.rows)
    return Peers.of(
        attributes=experts.pool(rows, maps, axes.rows),
        embeddings=state.classes.embeddings,
        seen=state.classes.seen,
        labels=batch.labels,
        bias=objective.bias,
        group_sizes=experts.group_sizes,
        mean=view.mean,
        dropped=without,
        heads=experts.head_matrices(),
    )


TrainStep = Callable[..., tuple[TrainState, LossTerms]]


def make_train_step(
    model: nnx.GraphDef,
    objective: Objective,
    optimizer: Optimizer,
    axes: Axes = ALONE,
    teacher: nnx.GraphDef | None = None,
    batch_size: int | None = None,
) -> TrainStep:
    """The step `(state, batch, classes, frozen, teacher) -> (state, terms)`; pure, not compiled.

    `terms` are the loss terms before the step, `gradient_norm` before clipping, `parameter_norm`
    after the step and, where it changes, `learning_rate`.
    `frozen` is the model's state besides `state.params`, by default none; so is `teacher`.

    Args:
      model: its definition.
      objective: which losses.
      optimizer: of `make_optimizer`.
      axes: mapped axes that the step runs under; see `loss_and_gradients`.
      teacher: definition of the teacher's model, if there is one.
      batch_size: images of the global batch; None: steps count them where it is padded, on several
        devices by an all-reduce.
    """

    def train_step(
        state: TrainState,
        batch: Batch,
        classes: ClassSpace,
        frozen: nnx.State = NONE_FROZEN,
        taught_by: ModelState | None = None,
    ) -> tuple[TrainState, LossTerms]:
        theirs = None if teacher is None or taught_by is None else (teacher, taught_by)
        terms, gradients = loss_and_gradients(
            model,
            unpack(state.params),
            batch,
            classes,
            objective,
            frozen,
            axes,
            state.step,
            theirs,
            batch_size,
        )
        if isinstance(state.params, Packed):
            gradients = pack(gradients)
        factor = objective.distillation.factor(state.step)
        if factor is not None:
            terms["distillation_factor"] = factor
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(
                gradients, state.optimizer, state.params, lambda tree: _norms([tree], axes)[0]
            )
            params = cast(nnx.State, optax.apply_updates(state.params, updates))
            if isinstance(params, Packed):
                # Else XLA makes the update and the two sums one kernel, of 0.23 ms on an H100;
                # three of them take 0.15 together.
                gradients, params = jax.lax.optimization_barrier((gradients, params))
            norms = _norms([gradients, params], axes)
            terms["gradient_norm"], terms["parameter_norm"] = norms
        learning_rate = optimizer.learning_rate(state.optimizer)
        if learning_rate is not None:
            terms["learning_rate"] = learning_rate
        return TrainState(state.step + 1, params, optimizer_state), terms

    return train_step


def init_state(
    params: nnx.State, optimizer: Optimizer, schedule_step: Int[Array, ""] | int = 0
) -> TrainState:
    """The state before the first step.

    Args:
      params: to start from.
      optimizer: of `make_optimizer`.
      schedule_step: steps after which the learning rate's schedule is taken up.
    """
    optimizer_state = optimizer.init(params, schedule_step)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer_state)
