"""Which training images make up which step: a pure function of (seed, stream, step)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Integer, UInt32
from ml_collections import ConfigDict

from dedn_jax.data.threefry import threefry


class Pool(NamedTuple):
    """The training images grouped by class: NumPy arrays on the host, JAX arrays on devices.

    Attributes:
      key: seed and stream.
      images: image indices.
      labels: their class ids.
      counts: number of images of each class.
      starts: position in `images` of each class's first image.
    """

    key: UInt32[Any, " 2"]
    images: Int32[Any, " images"]
    labels: Int32[Any, " images"]
    counts: UInt32[Any, " classes"]
    starts: UInt32[Any, " classes"]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The published samplers, made stateless: any step can be drawn at any time, on any device.

    balanced: `min(classes, batch)` classes without replacement, then `max(batch // classes, 1)`
    images of each with replacement. Otherwise `batch` images without replacement.

    Attributes:
      images: image indices to draw from.
      labels: their class ids.
      batch_size: as in the recipe; a balanced batch can be smaller, see `size`.
      balanced: which sampler.
      seed: of all draws, 0 to 2**32 - 1.
      stream: distinguishes the phases of one run.
      pool: the same images grouped by class, for `draw`.
    """

    images: Int[np.ndarray, " images"]
    labels: Int[np.ndarray, " images"]
    batch_size: int
    balanced: bool
    seed: int
    stream: int
    pool: Pool = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        _, counts = np.unique(self.labels, return_counts=True)
        by_class = np.argsort(self.labels, kind="stable")
        pool = Pool(
            np.asarray([self.seed, self.stream], np.uint32),
            self.images[by_class].astype(np.int32),
            self.labels[by_class].astype(np.int32),
            counts.astype(np.uint32),
            (np.cumsum(counts) - counts).astype(np.uint32),
        )
        object.__setattr__(self, "pool", pool)

    @classmethod
    def from_config(
        cls,
        images: Int[np.ndarray, " images"],
        labels: Int[np.ndarray, " images"],
        config: ConfigDict,
        stream: int,
    ) -> Sampler:
        """The sampler of a recipe over `images`, whose class ids are `labels`."""
        train = config.train
        return cls(images, labels, train.batch_size, train.balanced, config.seed, stream)

    @property
    def size(self) -> int:
        """Images in every batch."""
        if not self.balanced:
            return min(self.batch_size, len(self.images))
        classes = len(self.pool.counts)
        return min(classes, self.batch_size) * max(self.batch_size // classes, 1)

    def key(self, step: int) -> tuple[int, int, int]:
        """Seeds whatever is random about a step besides the choice of images."""
        return (self.seed, self.stream, step)

    def __call__(self, step: int) -> Int32[np.ndarray, " size"]:
        """Image indices of step `step` (0-based)."""
        return self.pool.images[self.draw(self.pool, np.asarray(step, np.uint32))]

    def draw(self, pool: Pool, steps: UInt32[Any, "*steps"]) -> Integer[Any, "*steps size"]:
        """Draws the batches of any steps: the same numbers on the host and in a compiled program.

        Args:
          pool: this sampler's, as NumPy or JAX arrays.
          steps: 0-based, an array of the same kind.

        Returns:
          Positions in `pool.images` and `pool.labels`.
        """
        xp = steps.__array_namespace__()
        classes, images = len(pool.counts), len(pool.images)
        counters = xp.arange(max(classes, self.size) if self.balanced else images, dtype=xp.uint32)
        # Sorting random numbers gives a random order; the sort is stable for the rare equal ones.
        order, which = threefry(pool.key, steps[..., None], counters)
        if not self.balanced:
            return xp.argsort(order, stable=True)[..., : self.size]
        chosen = xp.argsort(order[..., :classes], stable=True)[..., : self.batch_size]
        chosen = xp.repeat(chosen, max(self.batch_size // classes, 1), axis=-1)
        # The remainder makes an image at most 1 + images / 2**32 times as likely as another.
        return pool.starts[chosen] + which[..., : self.size] % pool.counts[chosen]
