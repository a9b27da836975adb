"""How the train step is compiled for the devices there are: `jit` over a mesh, or `pmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from dedn_jax.axes import Axes
from dedn_jax.data.pipeline import Batches
from dedn_jax.distributed import CUT, DATA, WHOLE, Layout
from dedn_jax.drawn_batches import Resident, draw_batches
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

    def run(self, state: TrainState, count: int) -> tuple[TrainState, Any]:
        """So many steps, `most` at most.

        Returns:
          The state, and the metrics of all steps, still on the device: see `terms_of`.
        """
        ...


class _OverMesh:
    """The state is replicated over the layout from start to end."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def place(self, state: TrainState) -> TrainState:
        return self._layout.replicate(state)

    def plain(self, tree: Any) -> Any:
        return tree


class JitStrategy(_OverMesh):
    """One program over the mesh, which is sent its batches.

    Args:
      make_step: the step that runs under these axes.
      layout: of the devices.
      classes: of the task.
      frozen: what of the model is not trained.
      batches: of the steps that are to come.
      rows: of a batch, on all processes.
    """

    most = 1

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        classes: ClassSpace,
        frozen: nnx.State,
        batches: Batches,
        rows: int,
    ) -> None:
        super().__init__(layout)
        self._batches, self._rows = batches, rows
        self._fixed = layout.replicate((classes, frozen))
        step = make_step(layout.axes)

        def run(
            state: TrainState, batch: Batch, fixed: Any
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            return step(state, batch, *fixed)

        mapped = layout.over_batch(run, (WHOLE, CUT, WHOLE), WHOLE)
        self._run = jax.jit(mapped, donate_argnums=0, out_shardings=layout.replicated)

    def run(self, state: TrainState, count: int) -> tuple[TrainState, Any]:
        batch = self._layout.batch(*next(self._batches), self._rows)
        return self._run(state, batch, self._fixed)


class ResidentStrategy(_OverMesh):
    """One program over the mesh, which draws its batches from what stays on the devices.

    Nothing is sent to it but the number of steps to do; those before are counted by the state.

    Args:
      make_step, layout, classes, frozen: as `JitStrategy`.
      resident: what stays on the devices.
    """

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        classes: ClassSpace,
        frozen: nnx.State,
        resident: Resident,
    ) -> None:
        super().__init__(layout)
        table, sampler, most = resident
        self.most, self._table = most, table
        self._fixed = layout.replicate((sampler.pool, classes, frozen))
        step = make_step(layout.axes)

        def run(
            state: TrainState, count: jax.Array, table: FeatureTable, fixed: Any
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            pool, classes, frozen = fixed
            batches = draw_batches(sampler, pool, state.step, most, layout.parts, DATA)

            def one(state: TrainState, i: Any) -> tuple[TrainState, dict[str, jax.Array]]:
                batch = jax.tree.map(lambda x: x[i], batches)
                batch = batch._replace(inputs=look_up(table, batch.inputs))
                return step(state, batch, classes, frozen)

            return loop_steps(one, state, count, most)

        mapped = layout.over_batch(run, (WHOLE, WHOLE, table_spec(table), WHOLE), WHOLE)
        self._run = jax.jit(mapped, donate_argnums=0, out_shardings=layout.replicated)

    def run(self, state: TrainState, count: int) -> tuple[TrainState, Any]:
        return self._run(state, np.int32(count), self._table, self._fixed)


class PmapStrategy:
    """The same step mapped over devices, each with a copy of the state; batches are sent.

    Args: as `JitStrategy`.
    """

    most = 1

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        classes: ClassSpace,
        frozen: nnx.State,
        batches: Batches,
        rows: int,
    ) -> None:
        self._layout, self._batches, self._rows = layout, batches, rows
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

        # By the step's axis: of another one, they would make the second step compile anew.
        return jax.pmap(lambda x: x, axis_name=DATA)(jax.tree.map(copies, tree))

    def place(self, state: TrainState) -> TrainState:
        return self._copies(state)

    def plain(self, tree: Any) -> Any:
        return self._layout.replicate(jax.tree.map(lambda x: np.asarray(x[0]), tree))

    def run(self, state: TrainState, count: int) -> tuple[TrainState, Any]:
        inputs, labels = next(self._batches)
        each = self._layout.rows(self._rows) // jax.device_count()
        here = each * len(self._devices)

        def cut(x: np.ndarray) -> Any:
            missing = here - len(x)
            x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
            return x.reshape(len(self._devices), each, *x.shape[1:])

        weights = self._layout.weights(self._rows)
        parts = (inputs, labels) if weights is None else (inputs, labels, weights)
        state, terms = self._run(state, Batch(*map(cut, parts)), self._fixed)
        return state, jax.tree.map(lambda t: t[0], terms)


def terms_of(terms: Any, index: int) -> dict[str, float]:
    """The metrics of the step with that index in the call; waits for the device."""
    return {k: float(v if v.ndim == 0 else v[index]) for k, v in terms.items()}
