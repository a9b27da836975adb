"""A train step of many models on one batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.pipeline import Batch, Batches
from dedn_jax.parallel.executors import loop_steps
from dedn_jax.parallel.resident.batches import ResidentBatches, draw_batches
from dedn_jax.parallel.resident.features import lookup
from dedn_jax.sweep.divergence import all_finite
from dedn_jax.sweep.place import REPLICATED, Place, each_model
from dedn_jax.training.objective import ClassSpace, Objective
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import TrainState, init_state, make_train_step


def choose(which: jax.Array, these: Any, those: Any) -> Any:
    """Of two trees of stacked models, for every model the one or the other.

    Args:
      which: `[models]` bool: true takes the model from `these`.
      these, those: arrays `[models, ...]`.
    """

    def of(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(of, these, those)


def start(params: nnx.State, config: ConfigDict, place: Place) -> TrainState:
    """The stacked states before the first step; shares no memory with `params`."""

    def init(params: nnx.State) -> TrainState:
        return jax.vmap(lambda p: init_state(p, make_optimizer(config)))(
            jax.tree.map(jnp.copy, params)
        )

    # Put again: what does not depend on `params` comes out whole on every device.
    return place.put(place.compile(init, (place.by_model,), place.by_model)(params))


class ModelsStep:
    """Runs steps of all models, of which each has its own number of steps to do.

    A model that has missed a step, because it diverged there (`dedn_jax.sweep.divergence`), misses
    all later ones.

    Args:
      definition: of the model.
      config: of the point.
      place: of the models.
      fixed: what all models share besides the batch: the classes, and what is not trained.
      ends: `[models]`: a model that has done so many steps does not change any more.
      source: of the batches: those of the steps that are to come, or what to draw them from.
    """

    def __init__(
        self,
        definition: nnx.GraphDef,
        config: ConfigDict,
        place: Place,
        fixed: tuple[ClassSpace, nnx.State],
        ends: np.ndarray,
        source: Batches | ResidentBatches,
    ) -> None:
        resident = source if isinstance(source, ResidentBatches) else None
        self.max_steps = most = resident.max_steps if resident else 1
        self._place, self._source = place, source
        pool = resident.sampler.pool if resident else None
        self._fixed = place.share((pool, *fixed))
        self._table = resident.features if resident else None
        self._ends = place.put(np.asarray(ends, np.int32))
        objective, optimizer = Objective.from_config(config), make_optimizer(config)
        models = each_model(make_train_step(definition, objective, optimizer))

        def run(
            state: TrainState,
            ends: jax.Array,
            sent: Any,
            numbers: tuple[Any, Any],
            table: Any,
            fixed: Any,
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            done, count = numbers
            pool, classes, frozen = fixed

            def step(
                state: TrainState, batch: Batch, number: Any
            ) -> tuple[TrainState, dict[str, jax.Array]]:
                after, terms = models(state, batch, classes, frozen)
                takes = (state.step == number) & (state.step < ends) & all_finite(terms)
                return choose(takes, after, state), terms

            if resident is None:
                state, terms = step(state, sent, done)
                return state, jax.tree.map(lambda t: t[None], terms)
            drawn = draw_batches(resident.sampler, pool, done, most)

            def one(state: TrainState, i: Any) -> tuple[TrainState, dict[str, jax.Array]]:
                # Read once for all models.
                batch = Batch(lookup(table, drawn.inputs[i]), drawn.labels[i])
                return step(state, batch, done + i)

            return loop_steps(one, state, count, most)

        cut = (place.by_model, place.by_model, REPLICATED, REPLICATED, REPLICATED, REPLICATED)
        out = (place.by_model, place.by_step_and_model)
        self._run = place.compile(run, cut, out, donate=(0,))

    def run(
        self, state: TrainState, done: int, count: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """So many steps, `most` at most.

        Args:
          state: of the models; its memory is used again.
          done: steps of the phase before these.
          count: how many.

        Returns:
          The state, and the metrics `[steps, models]`, still on the device.
        """
        numbers, sent = (np.int32(done), np.int32(count)), None
        if not isinstance(self._source, ResidentBatches):
            sent = Batch(*self._place.share(next(self._source)))
        return self._run(state, self._ends, sent, numbers, self._table, self._fixed)
