"""Batches that the devices draw themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.data.sampler import Sampler
from dedn_jax.parallel.resident.batches import draw_batches

LABELS = np.repeat([3, 5, 8, 9], [2, 7, 1, 6]).astype(np.int32)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("parts", [1, 2, 4, 5, 16])  # 16: more than images in a batch
def test_parts_are_the_samplers_batches(parts: int, balanced: bool) -> None:
    images = np.random.default_rng(0).permutation(len(LABELS))
    sampler = Sampler(images, LABELS[images], 10, balanced, seed=7, stream=1)
    assert sampler.size == (8 if balanced else 10)

    def own(_: jax.Array, done: jax.Array) -> tuple:
        batch = draw_batches(sampler, jax.device_put(sampler.pool), done, 3, parts, "devices")
        weights = batch.weights
        return batch.inputs, batch.labels, jnp.ones(()) if weights is None else weights

    mapped = jax.vmap(own, in_axes=(0, None), axis_name="devices", axis_size=parts)
    for done in (0, 4):
        inputs, labels, weights = map(
            np.asarray, jax.jit(mapped)(jnp.zeros(parts), jnp.int32(done))
        )
        each = -(-sampler.size // parts)
        assert inputs.shape == labels.shape == (parts, 3, each)
        if parts * each == sampler.size:
            assert (weights == 1).all()
            weights = np.ones(inputs.shape)
        for i in range(3):
            drawn = sampler(done + i)
            whole = weights[:, i].reshape(-1) > 0
            np.testing.assert_array_equal(whole, np.arange(parts * each) < sampler.size)
            np.testing.assert_array_equal(inputs[:, i].reshape(-1)[whole], drawn)
            np.testing.assert_array_equal(labels[:, i].reshape(-1)[whole], LABELS[drawn])
            assert not inputs[:, i].reshape(-1)[~whole].any()
