"""Training batches can be stopped and gone on with anywhere; evaluation reads all images once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dedn_jax.data.dataset import Task
from dedn_jax.data.features import InMemoryFeatures
from dedn_jax.data.pipeline import evaluation_batches, train_batches
from dedn_jax.data.sampler import Sampler

IMAGES, CHANNELS, REGIONS, STEPS = 60, 3, 2, 25


def make_task() -> Task:
    """Image i has features i everywhere and class i % 6."""
    maps = np.broadcast_to(np.arange(IMAGES, dtype=np.float32)[:, None, None], (60, 3, 2))
    labels = (np.arange(IMAGES) % 6).astype(np.int32)
    return Task(
        inputs=InMemoryFeatures(maps),
        labels=labels,
        class_ids=np.arange(6),
        class_embeddings=np.eye(6, dtype=np.float32),
        seen=np.arange(6) < 4,
        train=np.flatnonzero(labels < 4),
        eval_seen=np.arange(3),
        eval_unseen=np.flatnonzero(labels >= 4),
    )


def make_sampler(task: Task, balanced: bool = True, seed: int = 3) -> Sampler:
    return Sampler(task.train, task.labels[task.train], 8, balanced, seed, 0)


def as_lists(batches: object) -> list[tuple[list, list]]:
    return [(f.tolist(), y.tolist()) for f, y in batches]  # type: ignore[attr-defined]


@pytest.mark.parametrize("balanced", [True, False])
def test_batches_are_the_samplers(balanced: bool) -> None:
    task = make_task()
    sampler = make_sampler(task, balanced)
    batches = list(train_batches(task, sampler, STEPS))
    assert len(batches) == STEPS
    for step, (features, labels) in enumerate(batches):
        images = sampler(step)
        assert features.shape == (8, CHANNELS, REGIONS)
        assert features.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(features[:, 0, 0], images)
        np.testing.assert_array_equal(labels, images % 6)


def test_deterministic() -> None:
    task = make_task()
    first = as_lists(train_batches(task, make_sampler(task), STEPS))
    assert as_lists(train_batches(task, make_sampler(task), STEPS)) == first
    assert as_lists(train_batches(task, make_sampler(task, seed=4), STEPS)) != first


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 13, STEPS - 1, STEPS])
def test_position_is_restored_in_another_iterator(stop: int) -> None:
    task = make_task()
    whole = as_lists(train_batches(task, make_sampler(task), STEPS))
    iterator = train_batches(task, make_sampler(task), STEPS)
    head = as_lists(next(iterator) for _ in range(stop))
    # As a checkpoint keeps it: through JSON. Batches that were read ahead are not lost.
    state = json.loads(json.dumps(iterator.get_state()))
    assert head == whole[:stop]
    fresh = train_batches(task, make_sampler(task), STEPS)
    fresh.set_state(state)
    assert as_lists(fresh) == whole[stop:]
    # The first iterator goes on undisturbed, and can be set back.
    assert as_lists(iterator) == whole[stop:]
    iterator.set_state(state)
    assert as_lists(iterator) == whole[stop:]


def test_an_interrupted_run_that_is_interrupted_again() -> None:
    task = make_task()
    whole = as_lists(train_batches(task, make_sampler(task), STEPS))
    found, state = [], None
    while len(found) < STEPS:
        iterator = train_batches(task, make_sampler(task), STEPS)
        if state is not None:
            iterator.set_state(state)
        found += as_lists(next(iterator) for _ in range(min(4, STEPS - len(found))))
        state = iterator.get_state()
    assert found == whole


@pytest.mark.parametrize("count", [1, 6, 7, 8, 20])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluation_batches(count: int, batch_size: int) -> None:
    images = np.random.default_rng(0).permutation(IMAGES)[:count]
    found: list[float] = []
    for features, valid in evaluation_batches(make_task(), images, batch_size):
        assert features.shape == (batch_size, CHANNELS, REGIONS)  # one shape: compiled once
        assert 1 <= valid <= batch_size
        found += features[:valid, 0, 0].tolist()
    assert found == images.tolist()
