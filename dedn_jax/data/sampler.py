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
    _by_class: tuple[np.ndarray, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_class = tuple(self.images[self.labels == k] for k in np.unique(self.labels))
        object.__setattr__(self, "_by_class", by_class)

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
        classes = len(self._by_class)
        return min(classes, self.batch_size) * max(self.batch_size // classes, 1)

    def key(self, step: int) -> tuple[int, int, int]:
        """What seeds all that is random about step `step`."""
        return (self.seed, self.stream, step)

    def __call__(self, step: int) -> np.ndarray:
        """Image indices of step `step` (0-based), `[size]` int64."""
        rng = np.random.default_rng(self.key(step))
        if not self.balanced:
            return rng.choice(self.images, self.size, replace=False)
        classes = len(self._by_class)
        chosen = rng.choice(classes, min(classes, self.batch_size), replace=False)
        each = max(self.batch_size // classes, 1)
        return np.concatenate([rng.choice(self._by_class[k], each) for k in chosen])
