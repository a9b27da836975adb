"""A train step of many models on one batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.feature_table import FeatureTable, look_up
from dedn_jax.optimizer import make_optimizer
from dedn_jax.step import (
    Batch,
    ClassSpace,
    Objective,
    TrainState,
    init_state,
    loop_steps,
    make_train_step,
)
from dedn_jax.sweep.divergence import all_finite
from dedn_jax.sweep.place import WHOLE, Place, each_model


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
      table: see `dedn_jax.feed`.
    """

    def __init__(
        self,
        definition: nnx.GraphDef,
        config: ConfigDict,
        place: Place,
        fixed: tuple[ClassSpace, nnx.State],
        ends: np.ndarray,
        table: FeatureTable | None,
    ) -> None:
        # As in training: several steps a call where batches are indices.
        self.most = most = 1 if table is None else config.train.steps_per_call
        self._place, self._table = place, table
        self._fixed = place.share(fixed)
        self._ends = place.put(np.asarray(ends, np.int32))
        step = make_train_step(definition, Objective.from_config(config), make_optimizer(config))
        models = each_model(step)

        def run(
            state: TrainState,
            ends: jax.Array,
            batches: Batch,
            numbers: tuple[Any, Any],
            table: Any,
            fixed: Any,
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            done, count = numbers

            def one(state: TrainState, i: Any) -> tuple[TrainState, dict[str, jax.Array]]:
                inputs, labels = batches.inputs[i], batches.labels[i]
                batch = Batch(look_up(table, inputs), labels)  # read once for all models
                after, terms = models(state, batch, *fixed)
                takes = (state.step == done + i) & (state.step < ends) & all_finite(terms)
                return choose(takes, after, state), terms

            if most == 1:
                state, terms = one(state, 0)
                return state, jax.tree.map(lambda t: t[None], terms)
            return loop_steps(one, state, count, most)

        cut = (place.by_model, place.by_model, WHOLE, WHOLE, WHOLE, WHOLE)
        out = (place.by_model, place.by_step_and_model)
        self._run = place.compile(run, cut, out, donate=(0,))

    def run(
        self, state: TrainState, done: int, batches: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step for each batch, `most` of them at most.

        Args:
          state: of the models; its memory is used again.
          done: steps of the phase before these.
          batches: inputs and labels of every step.

        Returns:
          The state, and the metrics `[steps, models]`, still on the device.
        """
        filled = batches + batches[-1:] * (self.most - len(batches))
        inputs, labels = (np.stack(x) for x in zip(*filled, strict=True))
        batch = Batch(*self._place.share((inputs, labels)))
        numbers = np.int32(done), np.int32(len(batches))
        return self._run(state, self._ends, batch, numbers, self._table, self._fixed)
