"""Which images make up the batches, in the order in which grain reads them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

from dedn_jax.data.dataset import Task
from dedn_jax.data.sampler import Sampler


class Example(NamedTuple):
    """One row of a training batch.

    Attributes:
      image: image index.
      label: class id.
      key: seeds the augmentation: seed, stream, step and row in the batch.
    """

    image: int
    label: np.int32
    key: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class TrainingRows:
    """The rows of one training batch that a process reads; `rows[i]` is an `Example`.

    Attributes:
      images: image indices.
      labels: their class ids, int32.
      step_key: the sampler's key of the step.
      first_row: row in the batch of `images[0]`.
    """

    images: Int[np.ndarray, " rows"]
    labels: Int[np.ndarray, " rows"]
    step_key: tuple[int, int, int]
    first_row: int

    def __getitem__(self, row: int) -> Example:
        return Example(self.images[row], self.labels[row], (*self.step_key, self.first_row + row))


class TrainingStream:
    """The sampler's batches in order of steps: `stream[i]` are the rows of step `steps[i]`."""

    def __init__(self, task: Task, sampler: Sampler, steps: range, rows: slice) -> None:
        """Draws nothing yet.

        Args:
          task: the images and their labels.
          sampler: which images a step takes.
          steps: to read.
          rows: of every batch.
        """
        self._labels, self._sampler, self._steps, self._rows = task.labels, sampler, steps, rows
        self._last: tuple[int, TrainingRows] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> TrainingRows:
        # A step is asked for once per row. Read once, since other threads may replace it.
        last = self._last
        if last is None or last[0] != index:
            step = self._steps[index]
            images = self._sampler(step)[self._rows]
            rows = TrainingRows(
                images, self._labels[images], self._sampler.key(step), self._rows.start
            )
            last = self._last = index, rows
        return last[1]


class Rows(Protocol):
    """What the rows of a batch are read from."""

    def __getitem__(self, row: int, /) -> Any: ...


class Batched(Protocol):
    """Rows of batch after batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, batch: int, /) -> Rows: ...


@dataclasses.dataclass(frozen=True)
class RowByRow:
    """The rows of all batches one by one: a source for `grain.MapDataset`.

    grain gives element i to worker i % workers. Elements are numbered such that each worker is
    given whole batches, row after row: worker w batches w, w + workers, w + 2 · workers, ...

    Attributes:
      batches: where the rows come from.
      rows: per batch.
      workers: number of processes that share the elements, at least 1.
    """

    batches: Batched
    rows: int
    workers: int

    def __len__(self) -> int:
        return -(-len(self.batches) // self.workers) * self.workers * self.rows

    def __getitem__(self, index: int) -> Any:
        """One row; None, which grain skips, where the last round has fewer batches than workers."""
        position, worker = divmod(index, self.workers)
        turn, row = divmod(position, self.rows)
        batch = turn * self.workers + worker
        return self.batches[batch][row] if batch < len(self.batches) else None


def evaluation_rows(
    images: Int[np.ndarray, " images"], batch_size: int, rows: slice
) -> Int[np.ndarray, "batches rows"]:
    """Image indices batch by batch; the last batch is filled up by repeating its first image.

    Args:
      images: in order.
      batch_size: of every batch.
      rows: of every batch, those to read.
    """
    count = -(-len(images) // batch_size)
    padded = np.zeros((count, batch_size), images.dtype)
    padded.reshape(-1)[: len(images)] = images
    if count:
        padded.reshape(-1)[len(images) :] = padded[-1, 0]
    return padded[:, rows]
