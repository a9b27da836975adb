"""Mixed images: the same whatever devices they are on, labels and maps by one share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.data.pipeline import Batch
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.losses import BatchMean
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.step import loss_and_gradients
from dedn_jax.training.views import Mixed, mixed_maps, mixing, next_rows
from tests.helpers.tiny import tiny_config

IMAGES, CHANNELS, REGIONS = 10, 6, 4
STEP = np.int32(7)


def maps(images: int = IMAGES) -> np.ndarray:
    x = np.random.default_rng(0).random((images, CHANNELS, REGIONS)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compiled_mixing(seed: int, alpha: float) -> Callable[[jax.Array, jax.Array], Mixed]:
    """Of a step and its labels, on one device; one program, as in a step."""
    return jax.jit(lambda step, labels: mixing(seed, step, labels, alpha, BatchMean()))


def test_the_share_is_that_of_beta() -> None:
    labels = jnp.arange(4000)
    of_step = compiled_mixing(3, 0.4)
    mixed = of_step(STEP, labels)
    share = np.asarray(mixed.share[:-1])
    drawn = np.random.default_rng(1).beta(0.4, 0.4, 200_000)
    expected = np.maximum(drawn, 1 - drawn)
    assert share.min() >= 0.5
    np.testing.assert_allclose(share.mean(), expected.mean(), atol=0.012)
    np.testing.assert_allclose(share.std(), expected.std(), atol=0.01)
    np.testing.assert_array_equal(mixed.labels, np.roll(labels, -1))
    assert mixed.share[-1] == 1  # the last has no other
    other = of_step(STEP + 1, labels).share
    assert (np.asarray(other) != np.asarray(mixed.share)).mean() > 0.99


@pytest.mark.parametrize(
    "devices", [pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 8]
)
def test_any_number_of_devices_mixes_the_same(devices: int) -> None:
    """Eight have two rows each, six of them padding."""
    each = -(-IMAGES // devices)
    padding = devices * each - IMAGES
    labels, f = jnp.arange(IMAGES), jnp.asarray(maps())
    whole = compiled_mixing(3, 0.5)(STEP, labels)
    expected = mixed_maps(f, whole, None)

    def part(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, padding), *[(0, 0)] * (x.ndim - 1)])
        return padded.reshape(devices, each, *x.shape[1:])

    def on_device(labels: jax.Array, f: jax.Array, weights: jax.Array) -> tuple[Mixed, jax.Array]:
        mean = BatchMean(weights if padding else None, "data")
        mixed = mixing(3, STEP, labels, 0.5, mean)
        return mixed, mixed_maps(f, mixed, "data")

    on_all = jax.jit(jax.vmap(on_device, axis_name="data"))
    found, mixed = on_all(part(labels), part(f), part(jnp.ones(10)))
    np.testing.assert_array_equal(found.share.reshape(-1)[:IMAGES], whole.share)
    own = np.asarray(whole.share) < 1
    np.testing.assert_array_equal(
        found.labels.reshape(-1)[:IMAGES][own], np.asarray(whole.labels)[own]
    )
    np.testing.assert_allclose(mixed.reshape(-1, CHANNELS, REGIONS)[:IMAGES], expected, atol=1e-7)


def test_maps_are_mixed_and_normalised() -> None:
    f = maps()
    share = np.linspace(0.5, 1, IMAGES).astype(np.float32)
    mixed = Mixed(jnp.arange(IMAGES), jnp.asarray(share))
    expected = share[:, None, None] * f + (1 - share[:, None, None]) * np.roll(f, -1, axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(mixed_maps(jnp.asarray(f), mixed, None), expected, atol=1e-6)
    low = mixed_maps(jnp.asarray(f, jnp.bfloat16), mixed, None)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(next_rows(jnp.arange(4), None), [1, 2, 3, 0])


def test_the_loss_is_that_of_both_labels() -> None:
    """λ · CE(own label) + (1 - λ) · CE(other label) on the mixed maps, by hand."""
    config = tiny_config("", data__groups="0-1;2-4", train__mixup=0.5)
    rng = np.random.default_rng(2)
    model = DualExpert(
        rng.standard_normal((5, 3)),
        {"a": [0, 1], "b": [2, 3, 4]},
        channels=CHANNELS,
        regions=REGIONS,
        rngs=nnx.Rngs(0),
    )
    definition, params = nnx.split(model)
    seen = np.arange(6) < 4
    z = rng.random((6, 5))
    from dedn_jax.model.groups import as_groups

    groups = as_groups({"a": [0, 1], "b": [2, 3, 4]}, np.ones((5, 3)))
    classes = make_class_space(z, seen, groups)
    labels = rng.integers(0, 4, IMAGES)
    batch = Batch(jnp.asarray(maps()), jnp.asarray(labels, jnp.int32))
    objective = Objective.from_config(config)
    terms, _ = jax.jit(
        lambda params: loss_and_gradients(definition, params, batch, classes, objective, step=STEP)
    )(params)
    mixed = compiled_mixing(config.seed, 0.5)(STEP, batch.labels)
    coarse, fine = nnx.jit(lambda model, x: model(x))(model, mixed_maps(batch.inputs, mixed, None))
    for name, scores in (("coarse", coarse), ("fine", fine)):
        logits = np.asarray(scores.for_training() @ classes.embeddings.T, np.float64)
        logits = logits + np.where(seen, 1.0, 0.0)

        def loss(labels: np.ndarray, logits: np.ndarray = logits) -> np.ndarray:
            x = logits.copy()
            rows = np.arange(IMAGES)
            x[rows, labels] -= config.loss.margin
            return np.log(np.exp(x).sum(1)) - x[rows, labels]

        share = np.asarray(mixed.share, np.float64)
        expected = share * loss(labels) + (1 - share) * loss(np.roll(labels, -1))
        assert float(terms[f"cross_entropy_{name}"]) == pytest.approx(expected.mean(), rel=1e-5)
