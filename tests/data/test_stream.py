"""The order in which grain is given the rows of batches."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.data.sampler import Sampler
from dedn_jax.data.stream import RowByRow, TrainingStream, evaluation_rows
from tests.helpers.tasks import make_task


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("batches", [0, 1, 5, 6])
def test_every_worker_is_given_whole_batches(workers: int, batches: int) -> None:
    values = np.arange(batches * 4).reshape(batches, 4)
    source = RowByRow(values, rows=4, workers=workers)
    for worker in range(workers):
        found = [source[i] for i in range(worker, len(source), workers)]
        expected = values[worker::workers].reshape(-1).tolist()
        assert [x for x in found if x is not None] == expected
        assert found[len(expected) :] == [None] * (len(found) - len(expected))


def test_rows_of_a_training_step() -> None:
    task = make_task()
    sampler = Sampler(task.train, task.labels[task.train], 8, False, 3, 1)
    stream = TrainingStream(task, sampler, range(5, 9), slice(2, 6))
    assert len(stream) == 4
    for index in (3, 0, 0, 2):
        images = sampler(5 + index)[2:6]
        for row in range(4):
            example = stream[index][row]
            assert example.image == images[row]
            assert example.label == task.labels[images[row]]
            assert example.label.dtype == np.int32
            assert example.key == (3, 1, 5 + index, 2 + row)


def test_the_last_evaluation_batch_is_filled_up() -> None:
    images = np.asarray([9, 8, 7, 6, 5])
    np.testing.assert_array_equal(evaluation_rows(images, 3, slice(0, 3)), [[9, 8, 7], [6, 5, 6]])
    np.testing.assert_array_equal(evaluation_rows(images, 3, slice(2, 3)), [[7], [6]])
    assert evaluation_rows(images[:0], 3, slice(0, 3)).shape == (0, 3)
