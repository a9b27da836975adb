"""Runs train steps of many models on one batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.data.pipeline import Batch, Batches
from dedn_jax.parallel.executors import loop_steps
from dedn_jax.parallel.mesh import REPLICATED
from dedn_jax.parallel.resident.batches import ResidentBatches, draw_batches
from dedn_jax.parallel.resident.features import lookup
from dedn_jax.sweep.layout import ModelLayout, each_model
from dedn_jax.sweep.step_metrics import all_finite
from dedn_jax.training.optimizer import Optimizer
from dedn_jax.training.step import TrainState, TrainStep, init_state


class ModelsExecutor:
    """The `Executor` of stacked models, each with a number of steps of its own.

    A model that has missed a step, because it diverged there (`dedn_jax.sweep.step_metrics`),
    misses all later ones.

    Args:
      step: of one model.
      layout: of the models.
      constants: what every step takes after the batch, the same for all models.
      ends: `[models]` step counts after which each model is frozen.
      source: of the batches: those of the steps to come, or what to draw them from.
      done: steps of the phase before the first.
    """

    def __init__(
        self,
        step: TrainStep,
        layout: ModelLayout,
        constants: tuple[Any, ...],
        ends: np.ndarray,
        source: Batches | ResidentBatches,
        done: int,
    ) -> None:
        resident = source if isinstance(source, ResidentBatches) else None
        self.max_steps = max_steps = resident.max_steps if resident else 1
        self._layout, self._source, self._done = layout, source, done
        pool = resident.sampler.pool if resident else None
        self._constants = layout.replicate((pool, *constants))
        self._features = resident.features if resident else None
        self._ends = layout.place(np.asarray(ends, np.int32))
        models_step = each_model(step)

        def run(
            state: TrainState,
            ends: jax.Array,
            streamed: Any,
            numbers: tuple[Any, Any],
            features: Any,
            constants: Any,
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            done, count = numbers
            pool, *constants = constants

            def take(
                state: TrainState, batch: Batch, number: Any
            ) -> tuple[TrainState, dict[str, jax.Array]]:
                after, metrics = models_step(state, batch, *constants)
                takes = (state.step == number) & (state.step < ends) & all_finite(metrics)
                return choose(takes, after, state), metrics

            if resident is None:
                state, metrics = take(state, streamed, done)
                return state, jax.tree.map(lambda x: x[None], metrics)
            drawn = draw_batches(resident.sampler, pool, done, max_steps)

            def one(state: TrainState, i: Any) -> tuple[TrainState, dict[str, jax.Array]]:
                # Looked up once for all models.
                batch = jax.tree.map(lambda x: x[i], drawn)
                batch = batch._replace(inputs=lookup(features, batch.inputs))
                return take(state, batch, done + i)

            return loop_steps(one, state, count, max_steps)

        by_model = layout.by_model
        in_specs = (by_model, by_model, REPLICATED, REPLICATED, REPLICATED, REPLICATED)
        out_specs, read = (by_model, layout.by_step_and_model), (by_model, REPLICATED)
        self._run = layout.compile(run, in_specs, out_specs, (0,), read)

    def place(self, state: Any) -> Any:
        return self._layout.place(state)

    def replicated(self, tree: Any) -> Any:
        return tree

    def run(self, state: Any, count: int) -> tuple[Any, dict[str, jax.Array]]:
        """As `Executor.run`; metrics `[steps, models]`."""
        numbers, streamed = (np.int32(self._done), np.int32(count)), None
        if not isinstance(self._source, ResidentBatches):
            streamed = Batch(*self._layout.replicate(next(self._source)))
        self._done += count
        return self._run(state, self._ends, streamed, numbers, self._features, self._constants)


def choose(which: jax.Array, these: Any, those: Any) -> Any:
    """Picks every model from one of two trees of stacked models.

    Args:
      which: `[models]` bool: true takes the model from `these`.
      these, those: arrays `[models, ...]`.
    """

    def of(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(of, these, those)


def init_states(
    params: nnx.State,
    optimizer: Optimizer,
    layout: ModelLayout,
    schedule_step: np.ndarray | int = 0,
) -> TrainState:
    """The stacked states before the first step; shares no memory with the stacked `params`.

    Args:
      params: stacked.
      optimizer: of every model.
      layout: of the models.
      schedule_step: as for `init_state`; `[models]`, or the same for all.
    """

    def init(params: nnx.State, schedule_step: jax.Array) -> TrainState:
        copies = jax.tree.map(jnp.copy, params)
        return jax.vmap(lambda p, s: init_state(p, optimizer, s))(copies, schedule_step)

    by_model = layout.by_model
    schedule_steps = np.broadcast_to(np.asarray(schedule_step, np.int32), layout.models)
    states = layout.compile(init, (by_model, by_model), by_model)(params, schedule_steps)
    # Placed again: what does not depend on `params` comes out replicated.
    return layout.place(states)
