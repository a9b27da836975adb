"""Batches for training and evaluation, read ahead by grain.

Which images make up which batch depends on the seed and the step alone, so batches are the same for
any number of worker processes, and those of several processes put together are the batches of one.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain.python as grain
import jax
import numpy as np
from absl import flags

from dedn_jax.data.dataset import Inputs, Task
from dedn_jax.data.pictures.pictures import cores, limit_threads
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError

# Inputs and labels of step after step: this process's rows of them.
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
_READ_AHEAD = 2  # batches; a CUB batch is 80 MB in float32
_THREADS = 2


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
      inputs: `[batch, channels, regions]` feature maps, or `[batch, height, width, 3]` uint8
        pictures where the model has a backbone.
      labels: `[batch]` int32.
      weights: `[batch]` float32: 0 for rows that only fill the batch up, 1 for images; None where
        all rows are images.
    """

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array | None = None


class Shard(NamedTuple):
    """Which part of every batch is read here: that of one process of several.

    Attributes:
      process: which one, among those that read different parts.
      processes: how many of them there are.
      devices: of all processes, each of which takes as many rows of a batch; 0 for one a process.
    """

    process: int = 0
    processes: int = 1
    devices: int = 0

    def part(self, rows: int) -> slice:
        """The rows of a batch; where they cannot be cut evenly the last parts are smaller."""
        devices = self.devices or self.processes
        each = -(-rows // devices) * devices // self.processes
        first, end = (min(rows, each * p) for p in (self.process, self.process + 1))
        return slice(first, end)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How batches are read; changes no number.

    Attributes:
      workers: processes that read ahead; 0: threads of this one.
      shard: the part of every batch that this process reads.
    """

    workers: int = 0
    shard: Shard = dataclasses.field(default_factory=Shard)


READ_HERE = Reading()


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    inputs: Inputs
    labels: np.ndarray
    sampler: Sampler
    shard: Shard

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        indices = self.sampler(int(step))
        key = self.sampler.key(int(step))
        seeds = [(*key, row) for row in range(len(indices))]
        part = self.shard.part(len(indices))
        return self.inputs.training(indices[part], seeds[part]), self.labels[indices[part]]


@dataclasses.dataclass(frozen=True)
class _EvaluationBatch:
    inputs: Inputs
    images: np.ndarray
    batch_size: int
    shard: Shard

    def __call__(self, number: int) -> tuple[np.ndarray, int]:
        chosen = self.images[int(number) * self.batch_size :][: self.batch_size]
        filled = np.concatenate([chosen, np.full(self.batch_size - len(chosen), chosen[0])])
        return self.inputs[filled[self.shard.part(self.batch_size)]], len(chosen)


class TrainBatches:
    """An iterator over `(inputs, labels)` of every step.

    Inputs are `[batch, ...]` as the data set gives them, labels `[batch]` int32.
    """

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        num_steps: int,
        reading: Reading = READ_HERE,
        done: int = 0,
    ) -> None:
        """Reads nothing yet.

        Args:
          task: where the images are.
          sampler: which of them each step takes.
          num_steps: of the training.
          reading: how.
          done: steps to leave out, since a training that goes on has them behind it.
        """
        self._batch = _TrainBatch(task.inputs, task.labels, sampler, reading.shard)
        self._steps = grain.MapDataset.range(done, num_steps)
        self._workers = reading.workers
        self._iterator: Iterator[tuple[np.ndarray, np.ndarray]] | None = None

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """The next step's batch.

        Raises:
          InputError: an image cannot be read.
        """
        if self._iterator is None:
            self._iterator = _read_ahead(self._steps.map(_Guarded(self._batch)), self._workers)
        return next(self._iterator)


def evaluation_batches(
    inputs: Inputs, images: np.ndarray, batch_size: int, reading: Reading = READ_HERE
) -> Iterator[tuple[np.ndarray, int]]:
    """Inputs of `images` in order, in batches of one size.

    Args:
      inputs: feature maps or pictures.
      images: image indices.
      batch_size: of every batch; the last one is filled up by repeating its first image.
      reading: how.

    Yields:
      `[batch_size, ...]` inputs, or this process's part of them, and how many of all count.
    """
    numbers = grain.MapDataset.range(-(-len(images) // batch_size))
    read = _Guarded(_EvaluationBatch(inputs, images, batch_size, reading.shard))
    yield from _read_ahead(numbers.map(read), reading.workers)


def _read_ahead(batches: Any, workers: int) -> Iterator[Any]:
    """The elements of a grain data set in order, read ahead by threads or by processes."""
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    dataset = batches.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # by whoever runs this; grain looks up some of its own
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, _start_worker)
    iterator = iter(dataset)
    try:
        for element in iterator:
            if isinstance(element, InputError):
                raise element
            yield element
    finally:
        iterator.close()  # ends the workers
        if workers:
            # What ended the loop still refers to batches, in a cycle; shared memory is scarce.
            element = None
            gc.collect()


def _start_worker(number: int, workers: int) -> None:
    """Called in each worker process before it reads."""
    # Meant for the process that trains, which may need more batches before it can stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(max(1, cores() // workers))


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers; they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Guarded:
    """Hands an InputError on as an element: worker processes turn exceptions into stack traces."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read

    def __call__(self, number: int) -> Any:
        try:
            return self._read(number)
        except InputError as error:
            return error
