"""Batches for training, read ahead by grain; batches for evaluation, each image exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain.python as grain
import numpy as np

from dedn_jax.data.dataset import Task
from dedn_jax.data.sampler import Sampler

_READ_AHEAD = 2  # batches; a CUB batch is 80 MB in float32
_THREADS = 2


def train_batches(task: Task, sampler: Sampler, num_steps: int) -> grain.DatasetIterator:
    """An iterator over `(features, labels)` of every step; its position can be saved and set.

    Args:
      task: where the images are.
      sampler: which of them each step takes.
      num_steps: length.

    Returns:
      A grain iterator with `get_state()` and `set_state()`. Features are `[batch, channels,
      regions]` in the data set's dtype, labels `[batch]` int32.
    """

    def gather(step: int) -> tuple[np.ndarray, np.ndarray]:
        indices = sampler(int(step))
        seeds = [(*sampler.key(int(step)), row) for row in range(len(indices))]
        return task.inputs.training(indices, seeds), task.labels[indices]

    dataset: Any = grain.MapDataset.range(num_steps).map(gather)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(dataset.to_iter_dataset(options))


def evaluation_batches(
    task: Task, images: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Features of `images` in order, in batches of one size.

    Args:
      task: where the images are.
      images: image indices.
      batch_size: of every batch; the last one is filled up by repeating its first image.

    Yields:
      `[batch_size, channels, regions]` features and how many of them count.
    """
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        filled = np.concatenate([chosen, np.full(batch_size - len(chosen), chosen[0])])
        yield task.inputs[filled], len(chosen)
