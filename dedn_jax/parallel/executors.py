"""How the train step is compiled for the devices there are: `jit` over a mesh, or `pmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dedn_jax.data.pipeline import Batch, Batches
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.mesh import CUT, DATA, WHOLE, Layout
from dedn_jax.parallel.resident.batches import Resident, draw_batches
from dedn_jax.parallel.resident.table import FeatureTable, look_up, table_spec


class State(Protocol):
    """A training state: a pytree that counts its steps."""

    @property
    def step(self) -> jax.Array: ...


S = TypeVar("S", bound=State)


# `(state, batch, *constants) -> (state, metrics)`, and what makes one for mapped axes.
Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
MakeStep = Callable[[Axes], Step]


class Strategy(Protocol):
    """Runs steps on a state that lies on the devices in the strategy's own way.

    Attributes:
      most: how many steps one call may run.
    """

    most: int

    def place(self, state: S) -> S:
        """A state as it is before the first step, or in a checkpoint, onto the devices."""
        ...

    def plain(self, tree: Any) -> Any:
        """The state, or a part of it, as `place` took it: replicated over the layout."""
        ...

    def run(self, state: S, count: int) -> tuple[S, Any]:
        """So many steps, `most` at most.

        Returns:
          The state, and the metrics of all steps, still on the device: see `terms_of`.
        """
        ...


class _OverMesh:
    """The state is replicated over the layout from start to end."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def place(self, state: S) -> S:
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
        classes: Any,
        frozen: Any,
        batches: Batches,
        rows: int,
    ) -> None:
        super().__init__(layout)
        self._batches, self._rows = batches, rows
        self._fixed = layout.replicate((classes, frozen))
        step = make_step(layout.axes)

        def run(state: S, batch: Batch, fixed: Any) -> tuple[S, dict[str, jax.Array]]:
            return step(state, batch, *fixed)

        mapped = layout.over_batch(run, (WHOLE, CUT, WHOLE), WHOLE)
        self._run = jax.jit(mapped, donate_argnums=0, out_shardings=layout.replicated)

    def run(self, state: S, count: int) -> tuple[S, Any]:
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
        classes: Any,
        frozen: Any,
        resident: Resident,
    ) -> None:
        super().__init__(layout)
        table, sampler, most = resident
        self.most, self._table = most, table
        self._fixed = layout.replicate((sampler.pool, classes, frozen))
        step = make_step(layout.axes)

        def run(
            state: S, count: jax.Array, table: FeatureTable, fixed: Any
        ) -> tuple[S, dict[str, jax.Array]]:
            pool, classes, frozen = fixed
            batches = draw_batches(sampler, pool, state.step, most, layout.parts, DATA)

            def one(state: S, i: Any) -> tuple[S, dict[str, jax.Array]]:
                batch = jax.tree.map(lambda x: x[i], batches)
                batch = batch._replace(inputs=look_up(table, batch.inputs))
                return step(state, batch, classes, frozen)

            return loop_steps(one, state, count, most)

        mapped = layout.over_batch(run, (WHOLE, WHOLE, table_spec(table), WHOLE), WHOLE)
        self._run = jax.jit(mapped, donate_argnums=0, out_shardings=layout.replicated)

    def run(self, state: S, count: int) -> tuple[S, Any]:
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
        classes: Any,
        frozen: Any,
        batches: Batches,
        rows: int,
    ) -> None:
        self._layout, self._batches, self._rows = layout, batches, rows
        self._devices = jax.local_devices()
        self._fixed = self._copies((classes, frozen))
        step = make_step(Axes(DATA))

        def run(state: S, batch: Batch, fixed: Any) -> Any:
            return step(state, batch, *fixed)

        self._run = jax.pmap(run, axis_name=DATA, donate_argnums=0)

    def _copies(self, tree: Any) -> Any:
        def copies(x: Any) -> np.ndarray:
            host = np.asarray(x)
            return np.broadcast_to(host, (len(self._devices), *host.shape))

        # By the step's axis: of another one, they would make the second step compile anew.
        return jax.pmap(lambda x: x, axis_name=DATA)(jax.tree.map(copies, tree))

    def place(self, state: S) -> S:
        return self._copies(state)

    def plain(self, tree: Any) -> Any:
        return self._layout.replicate(jax.tree.map(lambda x: np.asarray(x[0]), tree))

    def run(self, state: S, count: int) -> tuple[S, Any]:
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


def loop_steps(
    one: Callable[[S, Any], tuple[S, dict[str, jax.Array]]],
    state: S,
    count: jax.Array,
    most: int,
) -> tuple[S, dict[str, jax.Array]]:
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
