"""Batches for training and evaluation, read ahead by grain.

Which images make up a batch depends on the seed and the step alone, so batches are the same for any
number of worker processes, and the shards of several processes together are the batches of one.

Pictures are decoded one by one by grain's threads, then stacked. Feature maps only have to be
copied: they are gathered a batch at a time, which spares them the second copy.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Float, Int, Shaped

from dedn_jax.data.dataset import Inputs, Task
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.data.sampler import Sampler
from dedn_jax.data.stream import (
    Batched,
    Example,
    RowByRow,
    TrainingRows,
    TrainingStream,
    evaluation_rows,
)
from dedn_jax.data.workers import elements, start_worker
from dedn_jax.model.attention.indexed import IndexedMaps

InputRows = Shaped[np.ndarray, "rows ..."]
# Inputs and labels of step after step: this process's rows of them.
Batches = Iterator[tuple[InputRows, Int[np.ndarray, " rows"]]]
T = TypeVar("T")
R = TypeVar("R")
_READ_AHEAD = 2  # batches; a CUB batch is 80 MB in float32
_GATHER_THREADS = 2


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
      inputs: feature maps `[batch, channels, regions]`, which may still have to be looked up in
        device memory, or uint8 pictures `[batch, height, width, 3]` where the model has a backbone.
      labels: int32 class ids.
      weights: 1 for images, 0 for rows that pad the batch; None where nothing is padded.
    """

    inputs: Shaped[jax.Array, "batch ..."] | IndexedMaps
    labels: Int[jax.Array, " batch"]
    weights: Float[jax.Array, " batch"] | None = None


class Shard(NamedTuple):
    """Which rows of every batch this process reads.

    Attributes:
      process: index of this process among those that read different rows.
      processes: how many of those there are.
      devices: number of devices of all processes, each of which takes the same number of rows; 0
        for one device per process.
    """

    process: int = 0
    processes: int = 1
    devices: int = 0

    def part(self, rows: int) -> slice:
        """Its rows of a batch of `rows`; where these do not divide evenly, the last have fewer."""
        devices = self.devices or self.processes
        each = -(-rows // devices) * devices // self.processes
        first, end = (min(rows, each * p) for p in (self.process, self.process + 1))
        return slice(first, end)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How batches are read; changes nothing about their content.

    Attributes:
      workers: number of processes that read ahead; 0: threads of this process do.
      shard: which rows of every batch are read.
    """

    workers: int = 0
    shard: Shard = dataclasses.field(default_factory=Shard)


READ_HERE = Reading()


class TrainBatches:
    """An iterator over the `(inputs, labels)` of every step: this process's rows.

    Inputs are `[rows, ...]` as the data set gives them, labels `[rows]` int32.
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
          task: the images and their labels.
          sampler: which of them a step takes.
          num_steps: number of steps of the training.
          reading: how to read.
          done: number of steps to skip, for a training that is resumed.
        """
        part = reading.shard.part(sampler.size)
        self._dataset = _dataset(
            TrainingStream(task, sampler, range(done, num_steps), part),
            part.stop - part.start,
            reading.workers,
            decode=_decoder(task.inputs, _decode_example),
            gather=functools.partial(_gather_rows, task.inputs),
        )
        self._workers = reading.workers
        self._iterator: Batches | None = None

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> tuple[InputRows, Int[np.ndarray, " rows"]]:
        """The next step's batch.

        Raises:
          InputError: an image cannot be read.
        """
        if self._iterator is None:
            self._iterator = elements(self._dataset, self._workers)
        return next(self._iterator)


def evaluation_batches(
    inputs: Inputs,
    images: Int[np.ndarray, " images"],
    batch_size: int,
    reading: Reading = READ_HERE,
) -> Iterator[tuple[InputRows, int]]:
    """Inputs of `images` in order, in batches of one size.

    Args:
      inputs: feature maps or pictures.
      images: image indices.
      batch_size: of every batch; the last one is filled up by repeating its first image.
      reading: how to read.

    Yields:
      This process's rows of a batch, and how many rows of the whole batch are not padding.
    """
    part = reading.shard.part(batch_size)
    dataset = _dataset(
        evaluation_rows(images, batch_size, part),
        part.stop - part.start,
        reading.workers,
        decode=_decoder(inputs, Pictures.read),
        gather=inputs.__getitem__,
    )
    left = len(images)
    for rows in elements(dataset, reading.workers):
        yield rows, min(left, batch_size)
        left -= batch_size


def read_ahead(items: Sequence[T], read: Callable[[T], R], ahead: int) -> Iterator[R]:
    """`read` of every item in order, by as many threads as this process has cores.

    Args:
      items: to read.
      read: gives anything but None.
      ahead: how many results may wait.
    """
    threads = _cores()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    results = grain.MapDataset.source(range(len(items))).map(lambda i: read(items[i]))
    return elements(results.to_iter_dataset(options), workers=0)


def _decoder(inputs: Inputs, decode: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """`decode` of the inputs' rows one by one; None where whole batches are gathered."""
    return functools.partial(decode, inputs) if isinstance(inputs, Pictures) else None


def _decode_example(pictures: Pictures, example: Example) -> tuple[np.ndarray, np.int32]:
    return pictures.read(example.image, example.key), example.label


def _gather_rows(inputs: Inputs, rows: TrainingRows) -> tuple[InputRows, np.ndarray]:
    return inputs[rows.images], rows.labels


def _dataset(
    batches: Batched,
    rows: int,
    workers: int,
    *,
    decode: Callable[[Any], Any] | None,
    gather: Callable[[Any], Any],
) -> grain.IterDataset:
    """Batches in order, read ahead by threads of this process or by worker processes."""
    if decode is None or not rows:
        options = grain.ReadOptions(num_threads=_GATHER_THREADS, prefetch_buffer_size=_READ_AHEAD)
        dataset = grain.MapDataset.source(batches).map(gather).to_iter_dataset(options)
    else:
        sharing = max(1, workers)
        threads = max(1, _cores() // sharing)
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, _READ_AHEAD * rows)
        )
        elements = grain.MapDataset.source(RowByRow(batches, rows, sharing))
        dataset = elements.map(decode).to_iter_dataset(options).batch(rows)
    if not workers:
        return dataset
    if not flags.FLAGS.is_parsed():  # by whoever runs this; grain looks up some of its own
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), start_worker)


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
