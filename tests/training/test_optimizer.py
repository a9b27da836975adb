"""Optimisers, schedules, clipping and averages, on arrays; whole runs: `test_schedules`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.training.averaging import Averaged
from dedn_jax.training.optimizer import Optimizer, make_optimizer

STEPS = 40


def config_of(name: str = "sgd", **fields: object) -> ConfigDict:
    """A config whose terms are all visible beside each other."""
    values: dict[str, object] = {
        "name": name,
        "learning_rate": 1e-2,
        "momentum": 0.8,
        "decay": 0.95,
        "epsilon": 1e-3,
        "weight_decay": 0.1,
    } | fields
    return load_config("base", {f"optimizer.{k}": v for k, v in values.items()})


def gradients(shape: tuple[int, ...], steps: int = STEPS) -> Iterator[np.ndarray]:
    """Of many sizes, zero among them."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.integers(-4, 2, shape)
    for step in range(steps):
        gradient = (scales * rng.standard_normal(shape)).astype(np.float32)
        gradient[step % shape[0]] = 0
        yield gradient


def run(optimizer: Optimizer, start: np.ndarray, steps: int = STEPS) -> Iterator[tuple[Any, Any]]:
    """Parameters and state after each step."""
    params = jnp.asarray(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient in gradients(start.shape, steps):
        updates, state = update(jnp.asarray(gradient), state, params)
        params = params + updates
        yield params, state


def formula(o: ConfigDict, start: np.ndarray) -> Iterator[np.ndarray]:
    """The parameters after each step, in float64."""
    p = start.astype(np.float64)
    first, second = np.zeros_like(p), np.zeros_like(p)
    for t, gradient in enumerate(gradients(start.shape), 1):
        g = gradient.astype(np.float64)
        if o.name in ("rmsprop", "sgd"):
            g = g + o.weight_decay * p
        if o.name == "rmsprop":
            second = o.decay * second + (1 - o.decay) * g**2
            g = g / (np.sqrt(second) + o.epsilon)
        if o.name in ("rmsprop", "sgd"):
            first = o.momentum * first + g
            p = p - o.learning_rate * first
        if o.name == "adamw":
            first = o.momentum * first + (1 - o.momentum) * g
            second = o.decay * second + (1 - o.decay) * g**2
            mean, square = first / (1 - o.momentum**t), second / (1 - o.decay**t)
            step = mean / (np.sqrt(square) + o.epsilon)
            p = p - o.learning_rate * (step + o.weight_decay * p)
        if o.name == "lion":
            sign = np.sign(o.momentum * first + (1 - o.momentum) * g)
            first = o.decay * first + (1 - o.decay) * g
            p = p - o.learning_rate * (sign + o.weight_decay * p)
        yield p


@pytest.mark.parametrize("name", ["rmsprop", "adamw", "sgd", "lion"])
def test_updates_are_those_of_the_formula(name: str) -> None:
    config = config_of(name)
    start = np.random.default_rng(1).standard_normal((30, 7)).astype(np.float32)
    pairs = zip(run(make_optimizer(config), start), formula(config.optimizer, start), strict=True)
    for (params, _), expected in pairs:
        change = expected - start  # the change alone: the start would hide mistakes
        assert np.abs(np.asarray(params) - start - change).max() < 1e-4 * np.abs(change).max()


def test_the_published_state_is_unchanged() -> None:
    """So that the checkpoints of older runs are restored."""
    state = make_optimizer(load_config("cub_gzsl"), 141.14).init({"a": jnp.ones(2)})
    names = [type(part).__name__ for part in state]
    assert names == ["EmptyState", "ScaleByRmsState", "TraceState", "EmptyState"]
    assert [x.shape for x in jax.tree.leaves(state)] == [(2,), (2,)]


def rates(config: ConfigDict, steps_per_epoch: float, steps: list[int], first: int = 0) -> Any:
    """The learning rates that are reported, and those with which steps are taken."""
    optimizer = make_optimizer(config, steps_per_epoch)
    assert config.optimizer.name == "sgd" and config.optimizer.weight_decay == 0
    params = jnp.zeros(1)
    state = optimizer.init(params, first)
    said, taken = [], []
    for step in range(max(steps) + 1):
        if step in steps:
            said.append(float(optimizer.learning_rate(state)))  # type: ignore[arg-type]
        updates, state = optimizer.update(jnp.ones(1), state, params)
        if step in steps:
            taken.append(-float(updates[0]))
    return said, taken


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", 1.5), ("cosine", 0), ("constant", 2)])
def test_learning_rates(schedule: str, warmup: float) -> None:
    config = config_of(
        momentum=0.0,
        weight_decay=0.0,
        schedule=schedule,
        warmup_epochs=warmup,
        final_fraction=0.1,
    )
    config.train.epochs = 4
    per_epoch = 10.5  # 42 steps
    steps = [0, 1, 7, 15, 16, 21, 30, 41, 42, 60]
    expected = []
    for step in steps:
        epoch = step / per_epoch
        share = 1.0
        if epoch < warmup:
            share = epoch / warmup
        elif schedule == "cosine":
            through = min(1, (epoch - warmup) / (4 - warmup))
            share = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * through))
        expected.append(1e-2 * share)
    for found in rates(config, per_epoch, steps):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)
    later = [0, 5, 20]
    on = rates(config, per_epoch, later, first=10)[0]
    assert on == pytest.approx(rates(config, per_epoch, [10, 15, 30])[0], rel=1e-6)


def test_a_constant_learning_rate_is_not_reported() -> None:
    optimizer = make_optimizer(config_of(), 10)
    assert optimizer.learning_rate(optimizer.init(jnp.zeros(1), 7)) is None


@pytest.mark.parametrize("scaled", [False, True])
def test_learning_rate_by_batch_size(scaled: bool) -> None:
    config = config_of(weight_decay=0.0, scale_with_batch=scaled, reference_batch=40)
    config.train.batch_size = 100
    params = jnp.zeros(1)
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
    assert float(updates[0]) == pytest.approx(-1e-2 * (2.5 if scaled else 1))


def with_backbone(**fields: object) -> ConfigDict:
    config = config_of(momentum=0.0, weight_decay=0.0, **fields)
    config.data.source, config.data.format = "images", "demo"
    config.backbone.trained, config.backbone.learning_rate = True, 1e-4
    return config


def test_clipping_is_by_the_norm_of_all_parameters() -> None:
    params = {"experts": {"a": jnp.zeros(2)}, "backbone": {"b": jnp.zeros(1)}}
    gradient = {"experts": {"a": jnp.asarray([2.0, 3.0])}, "backbone": {"b": jnp.asarray([6.0])}}
    for clip, factor in ((3.5, 0.5), (8.0, 1.0), (0.0, 1.0)):
        optimizer = make_optimizer(with_backbone(clip_norm=clip))  # their norm is 7
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        expected = [-1e-2 * 2 * factor, -1e-2 * 3 * factor]
        np.testing.assert_allclose(updates["experts"]["a"], expected, rtol=1e-6)
        np.testing.assert_allclose(updates["backbone"]["b"], [-1e-4 * 6 * factor], rtol=1e-6)


def test_the_backbone_follows_the_schedule() -> None:
    config = with_backbone(schedule="cosine", warmup_epochs=1.0, ema_decay=0.9)
    config.train.epochs = 3
    optimizer = make_optimizer(config, 4.0)
    params = {"experts": {"a": jnp.zeros(1)}, "backbone": {"b": jnp.zeros(1)}}
    state = optimizer.init(params, 2)
    for share in (0.5, 0.75, 1.0, 0.5 * (1 + np.cos(np.pi / 8))):
        assert float(optimizer.learning_rate(state)) == pytest.approx(1e-2 * share)
        ones = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(ones, state, params)
        assert float(updates["experts"]["a"][0]) == pytest.approx(-1e-2 * share)
        assert float(updates["backbone"]["b"][0]) == pytest.approx(-1e-4 * share)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_averages_of_parameters(decay: float) -> None:
    """After n steps the weights of the parameters on the way, which add up to 1."""
    start = np.random.default_rng(1).standard_normal((30, 7)).astype(np.float32)
    averaged = run(make_optimizer(config_of("rmsprop", ema_decay=decay)), start)
    plain = run(make_optimizer(config_of("rmsprop")), start)
    reached: list[np.ndarray] = []
    for (params, state), (expected, _) in zip(averaged, plain, strict=True):
        np.testing.assert_array_equal(params, expected)  # training itself is the same
        reached.append(np.asarray(params, np.float64))
        weights = decay ** np.arange(len(reached))[::-1]
        average = np.tensordot(weights / weights.sum(), reached, 1)
        assert isinstance(state, Averaged)
        np.testing.assert_allclose(state.average, average, rtol=2e-5, atol=1e-6)
    assert np.abs(average - reached[-1]).max() > 1e-3


def test_the_average_of_no_steps_is_the_start() -> None:
    start = jnp.asarray([1.0, 2.0])
    state = make_optimizer(config_of(ema_decay=0.9)).init(start)
    assert isinstance(state, Averaged)
    np.testing.assert_array_equal(state.average, start)
    # A step may reuse the memory of either.
    assert state.average.unsafe_buffer_pointer() != start.unsafe_buffer_pointer()


@pytest.mark.parametrize("name", ["rmsprop", "adamw", "sgd", "lion"])
def test_models_side_by_side(name: str) -> None:
    """Under `vmap` every model has a gradient norm, a schedule and an average of its own."""
    fields = {"schedule": "cosine", "warmup_epochs": 1.0, "clip_norm": 0.5, "ema_decay": 0.9}
    config = config_of(name, **fields)
    config.train.epochs = 4
    optimizer = make_optimizer(config, 5.0)
    rng = np.random.default_rng(2)
    params = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    gradient = jnp.asarray([[0.1], [1.0], [10.0]]) * params
    first = jnp.asarray([0, 4, 9])

    def steps(params: Any, gradient: Any, first: Any) -> Any:
        state = optimizer.init(params, first)
        for _ in range(3):
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state.average, optimizer.learning_rate(state)

    together = jax.vmap(steps)(params, gradient, first)
    apart = [steps(*one) for one in zip(params, gradient, first, strict=True)]
    for found, *expected in zip(together, *apart, strict=True):
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5)
