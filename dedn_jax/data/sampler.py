"""Which training images make up which step: a pure function of (seed, stream, step)."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The published samplers, made stateless so that any step can be drawn at any time.

    balanced: `min(classes, batch)` classes without replacement, then `max(batch // classes, 1)`
    images of each with replacement. Otherwise `batch` images without replacement.

    Attributes:
      images: `[n]` image indices to draw from.
      labels: `[n]` their class ids.
      batch_size: as in the recipe; a balanced batch can be smaller, see `size`.
      balanced: which sampler.
      seed: of all draws.
      stream: tells the phases of one run apart.
    """

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    balanced: bool
    seed: int
    stream: int
    # All images class by class; how many each class has, and where its own begin.
    _by_class: np.ndarray = dataclasses.field(init=False, repr=False)
    _counts: np.ndarray = dataclasses.field(init=False, repr=False)
    _starts: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        _, counts = np.unique(self.labels, return_counts=True)
        by_class = self.images[np.argsort(self.labels, kind="stable")]
        object.__setattr__(self, "_by_class", by_class)
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(self, "_starts", np.cumsum(counts) - counts)

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
        classes = len(self._counts)
        return min(classes, self.batch_size) * max(self.batch_size // classes, 1)

    def key(self, step: int) -> tuple[int, int, int]:
        """What seeds all that is random about step `step`."""
        return (self.seed, self.stream, step)

    def __call__(self, step: int) -> np.ndarray:
        """Image indices of step `step` (0-based), `[size]` int64."""
        rng = np.random.default_rng(self.key(step))
        if not self.balanced:
            return rng.choice(self.images, self.size, replace=False)
        classes = len(self._counts)
        chosen = rng.choice(classes, min(classes, self.batch_size), replace=False)
        each = max(self.batch_size // classes, 1)
        # One draw for all classes: a draw a class gives the same numbers, 20 times slower.
        drawn = rng.integers(0, self._counts[chosen, None], (len(chosen), each))
        return self._by_class[(self._starts[chosen, None] + drawn).reshape(-1)]
