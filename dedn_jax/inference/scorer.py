"""Scores of pictures by a run's model, batch by batch on this process's devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8

from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.model import from_pictures
from dedn_jax.inference.picture_files import PictureSource, read_pixels
from dedn_jax.model.experts import AttributeScores, PerExpert
from dedn_jax.parallel.mesh import REPLICATED, SHARDED, local_layout
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.scores import Branches, CandidateScores

Pixels = UInt8[np.ndarray, "pictures crop crop 3"]
K = TypeVar("K")


class Attention(NamedTuple):
    """What the attributes of an expert attend to, on the host; each row sums to 1."""

    region: Float32[np.ndarray, "pictures attributes regions"]
    channel: Float32[np.ndarray, "pictures attributes channels"]

    def maps(
        self, grid: tuple[int, int]
    ) -> Float32[np.ndarray, "pictures attributes rows columns"]:
        """Of the regions that are parts of the picture: all but a class token, the last."""
        rows, columns = grid
        return self.region[..., : rows * columns].reshape(*self.region.shape[:2], rows, columns)


class PictureScorer:
    """What a finished run's model says of pictures.

    A program is compiled for every number of rows in a batch: 1, 2, 4 and so on up to
    `batch_size`. Safe to share between threads.

    Args:
      run: a finished run.
      batch_size: pictures computed at a time, at most; None: `config.evaluate.batch_size`.

    Attributes:
      model: from `[batch, crop, crop, 3]` uint8 pictures to attribute scores in group order.
      transform: how a picture is resized and cropped.
      grid: rows and columns of the feature maps' regions.
      batch_size: as given.

    Raises:
      InputError: as `dedn_jax.inference.model.from_pictures`.
    """

    def __init__(self, run: TrainingRun, batch_size: int | None = None) -> None:
        self.model, self.transform, self.grid = from_pictures(run)
        self.batch_size = batch_size or run.config.evaluate.batch_size
        self._run, self._order = run, run.groups.order
        self._layout = local_layout()
        self._definition, state = nnx.split(self.model)
        self._state = self._layout.replicate(state)
        self._programs: dict[tuple[bool, int], Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def decode(self, source: PictureSource) -> UInt8[np.ndarray, "crop crop 3"]:
        """A picture as the model takes it.

        Args:
          source: as for `read_pixels`.

        Raises:
          InputError: it is no picture, or too large; see `dedn_jax.data.pictures.decoding.decode`.
        """
        return self.transform.evaluated(read_pixels(source))

    def attributes(self, pictures: Pixels) -> PerExpert[Branches]:
        """Attribute scores of pictures.

        Args:
          pictures: as `decode` gives them.

        Returns:
          `[pictures, attributes]` for each expert and branch, in the data set's order.
        """
        batches = ((None, batch) for batch in self._batches(pictures))
        return _joined([found for _, found in self.attributes_of_batches(batches)])

    def attributes_of_batches(
        self, batches: Iterable[tuple[K, Pixels]]
    ) -> Iterator[tuple[K, PerExpert[Branches]]]:
        """As `attributes`, batch by batch; the next batch is read while one is computed.

        Args:
          batches: pictures, up to `batch_size` at a time, and what to give back with their scores.
        """
        waiting: tuple[K, Any, int] | None = None
        rows = 0
        for key, pictures in batches:
            rows = max(rows, self._padded(len(pictures)))  # the last batch is padded to the others'
            started = key, self._start(pictures, rows), len(pictures)
            if waiting:
                yield self._finished(*waiting)
            waiting = started
        if waiting:
            yield self._finished(*waiting)

    def scores(self, pictures: Pixels, candidates: Candidates) -> CandidateScores:
        """Attribute scores of pictures, and class scores of all branches.

        Args:
          pictures: as `decode` gives them.
          candidates: the classes.
        """
        return candidates.scores(self.attributes(pictures))

    def attention(self, pictures: Pixels) -> tuple[PerExpert[Branches], PerExpert[Attention]]:
        """Attribute scores, and what each attribute attends to.

        Args:
          pictures: as `decode` gives them, at most `batch_size`: attention is large.

        Returns:
          Attribute scores as of `attributes`, and the attention of each expert; attributes in the
          data set's order.
        """
        if not 1 <= len(pictures) <= self.batch_size:
            raise ValueError(f"{len(pictures)} pictures, expected 1 to {self.batch_size}")
        count = len(pictures)
        found, weights = self._start(pictures, self._padded(count), attention=True)
        attention = [Attention(*(self._on_host(x, count) for x in e)) for e in weights]
        return self._branches(found, count), PerExpert(*attention)

    def _batches(self, pictures: Pixels) -> Iterator[Pixels]:
        if not len(pictures):
            raise ValueError("no pictures, expected at least one")
        for start in range(0, len(pictures), self.batch_size):
            yield pictures[start : start + self.batch_size]

    def _padded(self, count: int) -> int:
        """Rows of a batch of `count` pictures: the next power of two, at most a whole batch."""
        return min(1 << (count - 1).bit_length(), self.batch_size)

    def _start(self, pictures: Pixels, rows: int, *, attention: bool = False) -> Any:
        """Gives a batch, padded to `rows`, to the devices; does not wait for them."""
        batch = np.zeros((rows, *pictures.shape[1:]), np.uint8)
        batch[: len(pictures)] = pictures
        program = self._program(rows, attention)
        return program(self._state, self._layout.shard_batch(batch, rows))

    def _program(self, rows: int, attention: bool) -> Callable[..., Any]:
        """Compiled for batches of `rows` pictures."""
        with self._lock:
            key = attention, rows
            if key not in self._programs:
                side = self.transform.crop
                pictures = np.zeros((rows, side, side, 3), np.uint8)
                batch = self._layout.shard_batch(pictures, rows)
                with self._run.computing():
                    lowered = self._function[attention].lower(self._state, batch)
                    self._programs[key] = lowered.compile()
            return self._programs[key]

    @cached_property
    def _function(self) -> dict[bool, Any]:
        """Without attention and with it."""
        definition = self._definition

        def scores(state: nnx.State, pictures: jax.Array) -> Any:
            return nnx.merge(definition, state)(pictures)

        def with_attention(state: nnx.State, pictures: jax.Array) -> Any:
            return nnx.merge(definition, state)(pictures, return_attention=True)

        specs = (REPLICATED, SHARDED), SHARDED
        return {
            False: self._layout.compile(scores, *specs),
            True: self._layout.compile(with_attention, *specs),
        }

    def _finished(self, key: K, found: Any, count: int) -> tuple[K, PerExpert[Branches]]:
        return key, self._branches(found, count)

    def _branches(self, found: PerExpert[AttributeScores], count: int) -> PerExpert[Branches]:
        return PerExpert(*(Branches(*(self._on_host(x, count) for x in e)) for e in found))

    def _on_host(self, array: jax.Array, count: int) -> Float32[np.ndarray, "count attributes ..."]:
        """The first rows on the host, attributes in the data set's order."""
        rows = np.asarray(array, np.float32)[:count]
        ordered = np.empty_like(rows)
        ordered[:, self._order] = rows
        return ordered


def _joined(parts: Sequence[PerExpert[Branches]]) -> PerExpert[Branches]:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
