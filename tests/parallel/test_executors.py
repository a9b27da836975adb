"""Every way of running the step compiles it once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.pipeline import Batch
from dedn_jax.data.sampler import Sampler
from dedn_jax.model.attention.indexed import as_array
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import (
    Executor,
    JitExecutor,
    PmapExecutor,
    ResidentExecutor,
    metrics_at,
)
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import make_resident
from dedn_jax.training.objective import ClassSpace
from dedn_jax.training.step import NONE_FROZEN, TrainState, TrainStep

IMAGES, BATCH, STEPS = 6, 4, 3


def _executor(name: str) -> Executor:
    rng = np.random.default_rng(0)
    maps, labels = rng.random((IMAGES, 3, 2), np.float32), np.arange(IMAGES, dtype=np.int32) % 2
    layout = Layout.of_devices()
    fixed = ClassSpace(jnp.zeros((2, 1)), jnp.ones(2, bool)), NONE_FROZEN

    def make_step(axes: Axes) -> TrainStep:
        def step(state: TrainState, batch: Batch, *_: Any) -> tuple[TrainState, dict]:
            mean = as_array(batch.inputs).mean()
            mean = jax.lax.pmean(mean, axes.names) if axes.names else mean
            return TrainState(state.step + 1, state.params + mean, state.optimizer), {"mean": mean}

        return step

    sampler = Sampler(np.arange(IMAGES), labels, BATCH, False, seed=0, stream=0)
    if name == "resident":
        table = make_resident(InMemoryFeatures(maps), layout, shard=False)
        return ResidentExecutor(make_step, layout, fixed, ResidentBatches(table, sampler, 1))
    batches = iter([(maps[i], labels[i]) for i in map(sampler, range(STEPS))])
    sent = {"jit": JitExecutor, "pmap": PmapExecutor}[name]
    return sent(make_step, layout, fixed, batches, BATCH)


@pytest.mark.parametrize("name", ["jit", "pmap", "resident"])
def test_only_the_first_step_compiles(name: str) -> None:
    executor, compiled = _executor(name), []

    def note(event: str, *_: Any, **__: Any) -> None:
        compiled.append(event)

    empty = TrainState(jnp.zeros((), jnp.int32), jnp.zeros(()), optax.EmptyState())
    state = executor.place(empty)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for step in range(STEPS):
            compiled.clear()
            state, terms = executor.run(state, 1)
            found = {event for event in compiled if "compile" in event}
            assert bool(found) == (step == 0), found
            assert metrics_at(terms, 0)["mean"] > 0
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert int(executor.replicated(state).step) == STEPS
