"""How the train step is compiled for the devices there are: `jit` over a mesh, or `pmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from dedn_jax.axes import Axes
from dedn_jax.distributed import CUT, DATA, WHOLE, Layout
from dedn_jax.feature_table import FeatureTable, look_up, table_spec
from dedn_jax.step import Batch, ClassSpace, TrainState, TrainStep, loop_steps

MakeStep = Callable[[Axes], TrainStep]


class Strategy(Protocol):
    """Runs steps on a state that lies on the devices in the strategy's own way.

    Attributes:
      most: how many steps one call may run.
    """

    most: int

    def place(self, state: TrainState) -> TrainState:
        """A state as it is before the first step, or in a checkpoint, onto the devices."""
        ...

    def plain(self, tree: Any) -> Any:
        """The state, or a part of it, as `place` took it: replicated over the layout."""
        ...

    def run(
        self, state: TrainState, batches: list[tuple[np.ndarray, np.ndarray]], rows: int
    ) -> tuple[TrainState, Any]:
        """One step for each batch, of which this process has its rows of `rows`.

        Returns:
          The state, and the metrics of all steps, still on the device: see `terms_of`.
        """
        ...


class JitStrategy:
    """One program over the mesh; several steps run in one call where the inputs are indices.

    Args:
      make_step: the step that runs under these axes.
      layout: of the devices.
      classes: of the task.
      frozen: what of the model is not trained.
      table: of feature maps on the devices, where batches are of image indices.
      most: steps a call may run.
    """

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        classes: ClassSpace,
        frozen: nnx.State,
        table: FeatureTable | None,
        most: int,
    ) -> None:
        self.most = most
        self._layout = layout
        self._fixed = layout.replicate((classes, frozen))
        self._table = table
        step = make_step(layout.axes)

        def run(
            state: TrainState, batches: Batch, count: jax.Array, table: Any, fixed: Any
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            def one(state: TrainState, i: Any) -> tuple[TrainState, dict[str, jax.Array]]:
                batch = jax.tree.map(lambda x: x[i], batches)
                batch = batch._replace(inputs=look_up(table, batch.inputs))
                return step(state, batch, *fixed)

            return loop_steps(one, state, count, most)

        def run_one(
            state: TrainState, batch: Batch, fixed: Any
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            return step(state, batch, *fixed)

        steps = PartitionSpec(None, DATA)
        cut = (WHOLE, steps, WHOLE, table_spec(table), WHOLE)
        many = layout.over_batch(run, cut, WHOLE)
        one_step = layout.over_batch(run_one, (WHOLE, CUT, WHOLE), WHOLE)
        replicated = layout.replicated
        self._run = jax.jit(many, donate_argnums=0, out_shardings=replicated)
        self._run_one = jax.jit(one_step, donate_argnums=0, out_shardings=replicated)

    def place(self, state: TrainState) -> TrainState:
        return self._layout.replicate(state)

    def plain(self, tree: Any) -> Any:
        return tree

    def run(
        self, state: TrainState, batches: list[tuple[np.ndarray, np.ndarray]], rows: int
    ) -> tuple[TrainState, Any]:
        if self.most == 1:
            (batch,) = batches
            return self._run_one(state, self._layout.batch(*batch, rows), self._fixed)
        filled = batches + batches[-1:] * (self.most - len(batches))
        inputs, labels = (np.stack(x) for x in zip(*filled, strict=True))
        weights = self._layout.weights(rows)
        stacked = Batch(
            self._layout.cut_steps(inputs, rows),
            self._layout.cut_steps(labels, rows),
            None
            if weights is None
            else self._layout.cut_steps(np.stack([weights] * self.most), rows),
        )
        count = np.int32(len(batches))
        return self._run(state, stacked, count, self._table, self._fixed)


class PmapStrategy:
    """The same step mapped over devices, each with a copy of the state; batches are streamed.

    Args: as `JitStrategy`.
    """

    most = 1

    def __init__(
        self, make_step: MakeStep, layout: Layout, classes: ClassSpace, frozen: nnx.State
    ) -> None:
        self._layout = layout
        self._devices = jax.local_devices()
        self._fixed = self._copies((classes, frozen))
        step = make_step(Axes(DATA))

        def run(state: TrainState, batch: Batch, fixed: Any) -> Any:
            return step(state, batch, *fixed)

        self._run = jax.pmap(run, axis_name=DATA, donate_argnums=0)

    def _copies(self, tree: Any) -> Any:
        def copies(x: Any) -> np.ndarray:
            host = np.asarray(x)
            return np.broadcast_to(host, (len(self._devices), *host.shape))

        return jax.pmap(lambda x: x)(jax.tree.map(copies, tree))

    def place(self, state: TrainState) -> TrainState:
        return self._copies(state)

    def plain(self, tree: Any) -> Any:
        return self._layout.replicate(jax.tree.map(lambda x: np.asarray(x[0]), tree))

    def run(
        self, state: TrainState, batches: list[tuple[np.ndarray, np.ndarray]], rows: int
    ) -> tuple[TrainState, Any]:
        ((inputs, labels),) = batches
        each = self._layout.rows(rows) // jax.device_count()
        here = each * len(self._devices)

        def cut(x: np.ndarray) -> Any:
            missing = here - len(x)
            x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
            return x.reshape(len(self._devices), each, *x.shape[1:])

        weights = self._layout.weights(rows)
        parts = (inputs, labels) if weights is None else (inputs, labels, weights)
        state, terms = self._run(state, Batch(*map(cut, parts)), self._fixed)
        return state, jax.tree.map(lambda t: t[0], terms)


def terms_of(terms: Any, index: int) -> dict[str, float]:
    """The metrics of the step with that index in the call; waits for the device."""
    return {k: float(v if v.ndim == 0 else v[index]) for k, v in terms.items()}
