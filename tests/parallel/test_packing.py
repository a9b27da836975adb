"""A packed state is the same state, and steps on it are the same steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.config import load_config
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.pipeline import Batch
from dedn_jax.data.sampler import Sampler
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import resolve_groups
from dedn_jax.parallel import executors
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.packing import Packed, pack, unpack
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import make_resident
from dedn_jax.training.network import build_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import TrainStep, init_state, make_train_step

ATTRIBUTES, CLASSES, CHANNELS, REGIONS, IMAGES, STEPS = 5, 4, 6, 3, 4, 3


def problem(**fields: Any) -> tuple[Any, ...]:
    """Definition and start of a run, its constants, and a batch a step."""
    config = load_config("base", {"data.groups": "0-1;2-4", **fields})
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ATTRIBUTES, 7))
    groups = resolve_groups(config.data.groups, vectors, None)
    network = build_network(config, vectors, groups, channels=CHANNELS, regions=REGIONS)
    optimizer, objective = make_optimizer(config), Objective.from_config(config)
    seen = np.arange(CLASSES) < CLASSES - 1
    classes = make_class_space(rng.uniform(size=(CLASSES, ATTRIBUTES)), seen, groups)
    batches = [
        (rng.random((IMAGES, CHANNELS, REGIONS), np.float32), rng.integers(0, 3, IMAGES, np.int32))
        for _ in range(STEPS)
    ]

    def make_step(axes: Axes = ALONE) -> TrainStep:
        return make_train_step(network.definition, objective, optimizer, axes)

    return make_step, init_state(network.params, optimizer), (classes, network.frozen), batches


def close(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 2])
def test_round_trip(rank: int) -> None:
    model = DualExpert(
        np.eye(5, 7), "0-1;2-4", channels=6, regions=3, rank=rank, rngs=nnx.Rngs(0), heads=True
    )
    _, params = nnx.split(model)
    packed = pack({"params": params, "count": jnp.zeros(())})
    assert isinstance(packed["params"], Packed)
    assert len(jax.tree.leaves(packed)) == 2
    found = jax.jit(unpack)(packed)["params"]
    close(found, params)


def test_a_trained_backbone_stays() -> None:
    state = nnx.State({"experts": {"x": jnp.zeros(2)}, "backbone": {"x": jnp.zeros(2)}})
    assert pack(state) is state


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer.name": "adamw", "optimizer.clip_norm": 0.1, "optimizer.ema_decay": 0.5},
        {"model.rank": 2, "loss.distillation.name": "kl+dual_head"},
    ],
    ids=["rmsprop", "adamw", "low rank"],
)
def test_steps(fields: dict[str, Any]) -> None:
    make_step, state, constants, batches = problem(**fields)
    step = jax.jit(make_step())
    packed = pack(state)
    assert len(jax.tree.leaves(packed)) < len(jax.tree.leaves(state))
    for batch in batches:
        state, terms = step(state, Batch(*batch), *constants)
        packed, found = step(packed, Batch(*batch), *constants)
        close(found, terms)
    close(unpack(packed), state)
    close(unpack(packed.evaluated), state.evaluated)


@pytest.mark.parametrize("on_gpus", [False, True])
def test_on_gpus(on_gpus: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an executor is given and gives back is not packed, what it runs on is; a call of as many
    steps as it may have, a loop of known length, takes the same steps.
    """
    layout = Layout.of_devices(jax.devices()[:1])
    make_step, start, constants, batches = problem()
    reference = start
    for batch in batches:
        reference, terms = jax.jit(make_step())(reference, Batch(*batch), *constants)
    monkeypatch.setattr(Layout, "on_gpus", on_gpus)
    executor = executors.JitExecutor(make_step, layout, constants, iter(batches), IMAGES)
    state = executor.place(start)
    assert isinstance(state.params, Packed) == on_gpus
    for _ in batches:
        state, found = executor.run(state, 1)
    close(found, terms)
    close(executor.replicated(state), reference)
    close(executor.replicated(state.evaluated), reference.params)


def test_calls_of_known_and_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of_devices(jax.devices()[:1])
    make_step, start, constants, batches = problem()
    maps, labels = (np.concatenate(x) for x in zip(*batches, strict=True))
    table = make_resident(InMemoryFeatures(maps), layout, shard=False)
    sampler = Sampler(np.arange(len(maps)), labels, IMAGES, False, seed=0, stream=0)
    ends = []
    for on_gpus in (False, True):
        monkeypatch.setattr(Layout, "on_gpus", on_gpus)
        resident = ResidentBatches(table, sampler, 2)
        executor = executors.ResidentExecutor(make_step, layout, constants, resident)
        state = executor.place(jax.tree.map(jnp.copy, start))
        for count in (2, 1):
            state, _ = executor.run(state, count)
        ends.append(executor.replicated(state))
    close(*ends)
