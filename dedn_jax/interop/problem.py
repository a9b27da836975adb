"""The inputs of a comparison: batches, word vectors, classes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.load import load_dataset
from dedn_jax.data.published import RECIPES
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError

_MODEL_OF_GROUPS = {"cub": "cub", "sun_released": "sun", "awa2": "awa2"}


@dataclasses.dataclass(frozen=True)
class Problem:
    """The inputs of both sides.

    Attributes:
      description: where it came from.
      batches: `(features [batch, channels, side, side] float32, labels [batch])`; features of any
        norm, both sides normalise them.
      word_vectors: `[attributes, word_dim]`.
      class_embeddings: `[classes, attributes]`.
      seen: `[classes]` bool.
    """

    description: str
    batches: list[tuple[np.ndarray, np.ndarray]]
    word_vectors: np.ndarray
    class_embeddings: np.ndarray
    seen: np.ndarray

    @property
    def maps(self) -> tuple[int, int]:
        """Channels and side of the feature maps."""
        _, channels, side, _ = self.batches[0][0].shape
        return channels, side


def random_problem(
    config: ConfigDict,
    *,
    channels: int,
    side: int,
    batches: int,
    classes: tuple[int, int] | None = None,
) -> Problem:
    """Features, embeddings and word vectors drawn at random, at a recipe's attribute count.

    Args:
      config: a published recipe; its groups decide the attribute and class counts.
      channels: C.
      side: regions are side x side.
      batches: how many.
      classes: seen and unseen; None: as in the proposed splits.
    """
    rng = np.random.default_rng(config.seed)
    known = RECIPES[published_model_name(config)]
    seen, unseen = classes or (known.seen, known.unseen)
    attributes = known.attributes
    # As after a ReLU: non-negative, about half of it zero.
    shape = (config.train.batch_size, channels, side, side)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        features = np.maximum(rng.standard_normal(shape, np.float32), 0)
        return features, rng.integers(0, seen, shape[0])

    return Problem(
        f"random features {list(shape)}, {attributes} attributes, {seen} + {unseen} classes",
        [batch() for _ in range(batches)],
        rng.standard_normal((attributes, 300), np.float32),
        rng.random((seen + unseen, attributes), np.float32),
        np.arange(seen + unseen) < seen,
    )


def file_problem(config: ConfigDict, features: Path, batches: int) -> Problem:
    """Batches of a feature file, drawn by the recipe's sampler.

    Raises:
      InputError: the file is not usable, or its maps are not square.
    """
    config = config.copy_and_resolve_references()
    config.data.path = str(features)
    dataset = load_dataset(config)
    side = math.isqrt(dataset.features.regions)
    if side * side != dataset.features.regions:
        raise InputError(
            f"{features}: {dataset.features.regions} regions are not a square number, as the "
            "published code needs"
        )
    labels = dataset.labels[dataset.trainval]
    sampler = Sampler.from_config(dataset.trainval, labels, config, stream=0)
    drawn = []
    for step in range(batches):
        images = sampler(step)
        maps = np.asarray(dataset.features[images], np.float32)
        drawn.append((maps.reshape(len(images), -1, side, side), dataset.labels[images]))
    return Problem(
        f"{features.name}, batches of {sampler.size}",
        drawn,
        dataset.word_vectors,
        dataset.class_embeddings,
        dataset.seen,
    )


def published_model_name(config: ConfigDict) -> str:
    """`cub`, `sun` or `awa2`: the published model a recipe is for.

    Raises:
      InputError: the recipe's groups are not those of a published model.
    """
    name = _MODEL_OF_GROUPS.get(config.data.groups)
    if name is None:
        raise InputError(
            f"config.data.groups={config.data.groups!r}: the published code has models for "
            f"{', '.join(_MODEL_OF_GROUPS)} only; choose such a recipe to compare"
        )
    return name
