"""Which training images make up which step: a pure function of (seed, stream, step)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.threefry import threefry


class Pool(NamedTuple):
    """What is drawn from, class by class; arrays of NumPy, or of JAX on the devices.

    Attributes:
      key: `[2]` uint32: seed and stream.
      images: `[n]` int32 image indices.
      labels: `[n]` int32 their class ids.
      counts: `[classes]` uint32: images of each class.
      starts: `[classes]` uint32: where in `images` those of each class begin.
    """

    key: Any
    images: Any
    labels: Any
    counts: Any
    starts: Any


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The published samplers, made stateless so that any step can be drawn at any time, anywhere.

    balanced: `min(classes, batch)` classes without replacement, then `max(batch // classes, 1)`
    images of each with replacement. Otherwise `batch` images without replacement.

    Attributes:
      images: `[n]` image indices to draw from.
      labels: `[n]` their class ids.
      batch_size: as in the recipe; a balanced batch can be smaller, see `size`.
      balanced: which sampler.
      seed: of all draws, 0 to 2**32 - 1.
      stream: tells the phases of one run apart.
      pool: the same images, for `draw`.
    """

    images: np.ndarray
    labels: np.ndarray
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
        cls, images: np.ndarray, labels: np.ndarray, config: ConfigDict, stream: int
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
        """What seeds all that is random about step `step`, besides which images are drawn."""
        return (self.seed, self.stream, step)

    def __call__(self, step: int) -> np.ndarray:
        """Image indices of step `step` (0-based), `[size]` int32."""
        return self.pool.images[self.draw(self.pool, np.asarray(step, np.uint32))]

    def draw(self, pool: Pool, steps: Any) -> Any:
        """Draws the batches of any steps: the same numbers on the host and in a compiled program.

        Args:
          pool: this sampler's own, with arrays of the kind that `steps` is.
          steps: `[...]` 0-based, a uint32 array of NumPy or of JAX.

        Returns:
          `[..., size]` positions in `pool.images` and `pool.labels`.
        """
        xp = steps.__array_namespace__()
        classes, images = len(pool.counts), len(pool.images)
        counters = xp.arange(max(classes, self.size) if self.balanced else images, dtype=xp.uint32)
        # The order of random numbers is a random order; of equal ones, as good as none, the first
        # comes first.
        order, which = threefry(pool.key, steps[..., None], counters)
        if not self.balanced:
            return xp.argsort(order, stable=True)[..., : self.size]
        chosen = xp.argsort(order[..., :classes], stable=True)[..., : self.batch_size]
        chosen = xp.repeat(chosen, max(self.batch_size // classes, 1), axis=-1)
        # By remainder an image is at most 1 + images / 2**32 times as likely as another.
        return pool.starts[chosen] + which[..., : self.size] % pool.counts[chosen]
