"""Which images make up which step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.data.sampler import Sampler


def sampler(
    counts: list[int], batch_size: int, balanced: bool, seed: int = 0, stream: int = 0
) -> tuple[Sampler, np.ndarray]:
    """`counts[k]` images of class `10 k`, image indices that are no positions; and their labels."""
    labels = np.repeat(10 * np.arange(len(counts)), counts)
    order = np.random.default_rng(99).permutation(len(labels))
    images = 1000 + 3 * np.arange(len(labels))
    labels = labels[order]
    by_image = np.full(images.max() + 1, -1)
    by_image[images] = labels
    return Sampler(images, labels, batch_size, balanced, seed, stream), by_image


@pytest.mark.parametrize(
    ("classes", "batch_size", "size", "each"),
    [
        (150, 50, 50, 1),  # CUB: 50 of 150 classes
        (40, 50, 40, 1),  # AWA2: 40 images a step
        (50, 50, 50, 1),
        (25, 50, 50, 2),
        (15, 50, 45, 3),
        (1, 4, 4, 4),
    ],
)
def test_balanced(classes: int, batch_size: int, size: int, each: int) -> None:
    draw, label = sampler([3] * classes, batch_size, balanced=True)
    assert draw.size == size
    for step in range(20):
        images = draw(step)
        assert images.shape == (size,)
        found, counts = np.unique(label[images], return_counts=True)
        assert len(found) == size // each  # classes without replacement
        assert set(counts) == {each}
        assert found.min() >= 0


def test_balanced_is_even_over_classes_and_images() -> None:
    """10 of 20 classes a step, of very different sizes: each class half of the time."""
    counts = [1, 30] * 10
    draw, label = sampler(counts, 10, balanced=True)
    steps = 4000
    images = np.concatenate([draw(step) for step in range(steps)])
    per_class = np.bincount(label[images] // 10, minlength=20)
    # Binomial(4000, 1/2): five standard deviations.
    assert np.abs(per_class - steps / 2).max() < 5 * np.sqrt(steps / 4)
    per_image = np.unique(images[label[images] == 10], return_counts=True)[1]
    assert len(per_image) == 30
    assert np.abs(per_image - per_class[1] / 30).max() < 5 * np.sqrt(per_class[1] / 30)


def test_images_of_a_class_are_drawn_with_replacement() -> None:
    draw, label = sampler([2, 2], 10, balanced=True)
    assert draw.size == 10
    images = draw(0)
    assert [np.sum(label[images] == k) for k in (0, 10)] == [5, 5]  # of two images each


def test_not_balanced_is_without_replacement() -> None:
    draw, _ = sampler([1, 50, 9], 20, balanced=False)
    assert draw.size == 20
    seen = np.concatenate([draw(step) for step in range(3000)]).reshape(3000, 20)
    assert all(len(np.unique(row)) == 20 for row in seen[:200])
    counts = np.unique(seen, return_counts=True)[1]
    assert len(counts) == 60
    # Each image in a third of the steps, whatever its class.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * (1 / 3) * (2 / 3))


def test_fewer_images_than_a_batch() -> None:
    draw, _ = sampler([2, 3], 50, balanced=False)
    assert draw.size == 5
    np.testing.assert_array_equal(np.sort(draw(4)), 1000 + 3 * np.arange(5))


@pytest.mark.parametrize("balanced", [True, False])
def test_a_pure_function_of_seed_stream_and_step(balanced: bool) -> None:
    counts = [5] * 30
    draw, _ = sampler(counts, 10, balanced)
    forwards = [draw(step) for step in range(10)]
    backwards = [sampler(counts, 10, balanced)[0](step) for step in reversed(range(10))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    others = [
        sampler(counts, 10, balanced, seed=1)[0](3),
        sampler(counts, 10, balanced, stream=1)[0](3),
        draw(4),
        sampler(counts, 10, balanced, seed=3)[0](0),  # seed and step are not added up
    ]
    for other in others:
        assert not np.array_equal(forwards[3], other)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("counts", [[5] * 30, [1, 30] * 3, [4]])
def test_a_device_draws_what_the_host_draws(counts: list[int], balanced: bool) -> None:
    draw, _ = sampler(counts, 10, balanced, seed=2**32 - 1, stream=1)
    pool = jax.device_put(draw.pool)
    steps = jnp.arange(7, 7 + 40, dtype=jnp.uint32)
    images = jax.jit(lambda pool, steps: pool.images[draw.draw(pool, steps)])(pool, steps)
    np.testing.assert_array_equal(images, [draw(step) for step in range(7, 7 + 40)])


def test_labels_follow_the_images() -> None:
    draw, label = sampler([3, 1, 9], 5, balanced=False)
    positions = draw.draw(draw.pool, np.arange(20, dtype=np.uint32))
    assert positions.shape == (20, 5)
    images = draw.pool.images[positions]
    np.testing.assert_array_equal(draw.pool.labels[positions], label[images])


def test_neighbouring_steps_and_seeds_share_nothing() -> None:
    """All pairs of images of 50 steps and of 50 seeds come equally often, as chance has it."""
    for draws in (
        [sampler([8] * 5, 8, False)[0](step) for step in range(2000)],
        [sampler([8] * 5, 8, False, seed=seed)[0](0) for seed in range(2000)],
    ):
        there = np.zeros((2000, 40))
        for row, images in zip(there, draws, strict=True):
            row[(images - 1000) // 3] = 1
        # Of step after step, an image is drawn again with probability 1/5 each time.
        again = (there[1:] * there[:-1]).sum()
        expected, deviation = 1999 * 40 / 25, np.sqrt(1999 * 40 / 25)
        assert abs(again - expected) < 4 * deviation
        correlations = np.corrcoef(there.T)[~np.eye(40, dtype=bool)]
        # Without replacement the images of a step exclude each other: -1 / 39 on average.
        assert np.abs(correlations + 1 / 39).max() < 5 / np.sqrt(2000)
