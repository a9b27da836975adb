"""How the train step runs on the devices: `jit` over a mesh, `pmap`, or on resident features."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dedn_jax.data.pipeline import Batch, Batches
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED, STATE, Layout
from dedn_jax.parallel.packing import pack, unpack
from dedn_jax.parallel.resident.batches import ResidentBatches, draw_batches
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, indexed


class State(Protocol):
    """A training state: a pytree that counts its steps."""

    @property
    def step(self) -> jax.Array: ...


S = TypeVar("S", bound=State)
# `(state, batch, *constants) -> (state, metrics)`, and what makes one for mapped axes.
Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
MakeStep = Callable[[Axes], Step]


class Executor(Protocol):
    """Runs steps on a state that lies on the devices in the executor's own way.

    Attributes:
      max_steps: how many steps one call may run.
    """

    max_steps: int

    def place(self, state: S) -> S:
        """Puts a state, as it is before the first step or in a checkpoint, on the devices."""
        ...

    def replicated(self, tree: Any) -> Any:
        """The state, or a part of it, as `place` took it: replicated over the layout."""
        ...

    def run(self, state: S, count: int) -> tuple[S, Any]:
        """Runs `count` steps, at most `max_steps`.

        Returns:
          The state, and the metrics of all steps, still on the device: see `metrics_at`.
        """
        ...


class _MeshExecutor:
    """Keeps the state, and the constants of every step, on a mesh."""

    _layout: Layout

    def place(self, state: S) -> S:
        placed = self._layout.place_state(state)
        return jax.jit(pack)(placed) if self._layout.packs_state else placed

    def replicated(self, tree: Any) -> Any:
        packed = self._layout.packs_state
        return jax.jit(unpack)(tree) if packed else self._layout.gather_state(tree)


class _StreamingExecutor(abc.ABC):
    """Runs the batches that are streamed to it, a step a call.

    Args:
      make_step: makes the step for the mapped axes.
      layout: of the devices.
      constants: what every step takes after the batch: the classes, and what is not trained.
      batches: of the steps to come.
      rows: of a batch, on all processes.
    """

    max_steps = 1

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        constants: tuple[Any, ...],
        batches: Batches,
        rows: int,
    ) -> None:
        self._layout, self._batches, self._rows = layout, batches, rows
        self._constants = self._place_constants(constants)
        self._run = self._compile(make_step)

    @abc.abstractmethod
    def _place_constants(self, constants: Any) -> Any:
        """On the devices, as the step's program takes them."""

    @abc.abstractmethod
    def _compile(self, make_step: MakeStep) -> Callable[..., Any]:
        """The step as a program `(state, batch, constants) -> (state, metrics)`."""


class JitExecutor(_MeshExecutor, _StreamingExecutor):
    """One program over the mesh; arguments as for `_StreamingExecutor`."""

    def _place_constants(self, constants: Any) -> Any:
        return self._layout.replicate(constants)

    def _compile(self, make_step: MakeStep) -> Callable[..., Any]:
        specs = (STATE, SHARDED, REPLICATED)
        run = _with_constants(make_step(self._layout.axes))
        return self._layout.compile(run, specs, (STATE, REPLICATED), donate=(0,))

    def run(self, state: S, count: int) -> tuple[S, Any]:
        batch = self._layout.batch(*next(self._batches), self._rows)
        return self._run(state, batch, self._constants)


class ResidentExecutor(_MeshExecutor):
    """One program over the mesh, which draws its batches from features on the devices.

    The host sends nothing but the number of steps to run; the state counts those before.

    Args:
      make_step, layout, constants: as for `_StreamingExecutor`.
      resident: features on the devices, and the sampler.
    """

    def __init__(
        self,
        make_step: MakeStep,
        layout: Layout,
        constants: tuple[Any, ...],
        resident: ResidentBatches,
    ) -> None:
        features, sampler, max_steps = resident
        self._layout = layout
        self._constants = layout.replicate((sampler.pool, *constants))
        self.max_steps, self._features = max_steps, features
        step = make_step(layout.axes)

        def run(
            state: S, count: jax.Array | None, features: ResidentFeatures, constants: Any
        ) -> tuple[S, dict[str, jax.Array]]:
            pool, *constants = constants
            batches = draw_batches(sampler, pool, state.step, max_steps, layout.num_shards, DATA)

            def one(state: S, i: Any) -> tuple[S, dict[str, jax.Array]]:
                batch = jax.tree.map(lambda x: x[i], batches)
                batch = batch._replace(inputs=indexed(features, batch.inputs))
                return step(state, batch, *constants)

            return loop_steps(one, state, count, max_steps)

        specs = (STATE, REPLICATED, features_spec(features), REPLICATED)
        self._run = layout.compile(run, specs, (STATE, REPLICATED), donate=(0,))

    def run(self, state: S, count: int) -> tuple[S, Any]:
        # A loop of known length is another program, which a GPU can launch as one graph.
        known = self._layout.on_gpus and count == self.max_steps
        steps = None if known else np.int32(count)
        return self._run(state, steps, self._features, self._constants)


class PmapExecutor(_StreamingExecutor):
    """The step under `pmap`, each device with a copy of the state and of the constants."""

    def _compile(self, make_step: MakeStep) -> Callable[..., Any]:
        return jax.pmap(_with_constants(make_step(Axes(DATA))), axis_name=DATA, donate_argnums=0)

    def place(self, state: Any) -> Any:
        def copies(x: Any) -> np.ndarray:
            host = np.asarray(x)
            return np.broadcast_to(host, (jax.local_device_count(), *host.shape))

        # Mapped over the step's own axis: arrays of another would compile the second step anew.
        return jax.pmap(lambda x: x, axis_name=DATA)(jax.tree.map(copies, state))

    def _place_constants(self, constants: Any) -> Any:
        return self.place(constants)

    def replicated(self, tree: Any) -> Any:
        return self._layout.replicate(jax.tree.map(lambda x: np.asarray(x[0]), tree))

    def run(self, state: S, count: int) -> tuple[S, Any]:
        inputs, labels = next(self._batches)
        per_device = self._layout.padded_rows(self._rows) // jax.device_count()
        devices = jax.local_device_count()
        local = per_device * devices

        def split(x: np.ndarray) -> Any:
            missing = local - len(x)
            x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
            return x.reshape(devices, per_device, *x.shape[1:])

        weights = self._layout.weights(self._rows)
        arrays = (inputs, labels) if weights is None else (inputs, labels, weights)
        state, metrics = self._run(state, Batch(*map(split, arrays)), self._constants)
        return state, jax.tree.map(lambda x: x[0], metrics)


def _with_constants(step: Step) -> Step:
    """`step` with its constants as one argument."""

    def run(state: Any, batch: Batch, constants: Any) -> tuple[Any, dict[str, jax.Array]]:
        return step(state, batch, *constants)

    return run


def loop_steps(
    one: Callable[[S, Any], tuple[S, dict[str, jax.Array]]],
    state: S,
    count: jax.Array | None,
    max_steps: int,
) -> tuple[S, dict[str, jax.Array]]:
    """Steps 0 to `count - 1` in one program, compiled once for every count up to `max_steps`.

    Args:
      one: the step with that number: `(state, number) -> (state, metrics)`.
      state: before the first.
      count: how many, int32; None for `max_steps`, a loop of known length.
      max_steps: how many at most.

    Returns:
      The state, and metrics with a leading axis of `max_steps`, zero from `count` on.
    """
    shapes, tree = jax.tree.flatten(jax.eval_shape(one, state, 0)[1])
    # All in one array, which is one update a step: an accelerator would launch one for each.
    rows = jax.eval_shape(lambda *terms: jnp.stack(terms), *shapes)
    metrics = jnp.zeros((max_steps, *rows.shape), rows.dtype)

    def body(i: jax.Array, carry: Any) -> Any:
        state, metrics = carry
        state, terms = one(state, i)
        return state, metrics.at[i].set(jnp.stack(jax.tree.leaves(terms)))

    steps = max_steps if count is None else count
    state, metrics = jax.lax.fori_loop(0, steps, body, (state, metrics))
    return state, jax.tree.unflatten(tree, jnp.unstack(metrics, axis=1))


def metrics_at(metrics: Any, index: int) -> dict[str, float]:
    """The metrics of one step of a call, by its index there; waits for the device."""
    return {k: float(v if v.ndim == 0 else v[index]) for k, v in metrics.items()}
