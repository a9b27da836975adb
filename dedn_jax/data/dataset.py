"""Annotations with their images, and the tasks that can be trained on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from dedn_jax.config import FEATURE_DTYPES
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.features.maps import FeatureMaps, InMemoryFeatures, normalize
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups

# What a model is given, indexed by image: `inputs[indices]`, with indices in any order and with
# repeats, gives a batch.
Inputs = FeatureMaps | Pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class GZSLDataset(Annotations):
    """A data set for generalized zero-shot learning: annotations, and the images they are about.

    Attributes:
      inputs: feature maps or pictures.
    """

    inputs: Inputs

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise InputError(
                f"{self.source}: labels: {len(self.labels)} of them for {len(self.inputs)} images "
                "in feature_map; they must be equal"
            )
        super().__post_init__()

    @classmethod
    def from_arrays(
        cls,
        *,
        features: np.ndarray,
        labels: np.ndarray,
        class_embeddings: np.ndarray,
        word_vectors: np.ndarray,
        trainval: np.ndarray,
        test_seen: np.ndarray,
        test_unseen: np.ndarray,
        class_names: Sequence[str] | None = None,
        attribute_names: Sequence[str] | None = None,
        validation_classes: np.ndarray | None = None,
        groups: AttributeGroups | None = None,
        dtype: str = "float32",
        source: str = "arrays",
    ) -> GZSLDataset:
        """A data set of feature maps in memory.

        Example:
          >>> rng = np.random.default_rng(0)
          >>> dataset = GZSLDataset.from_arrays(
          ...     features=rng.random((9, 16, 7, 7)),
          ...     labels=np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]),
          ...     class_embeddings=rng.random((3, 5)),
          ...     word_vectors=rng.random((5, 4)),
          ...     trainval=np.array([0, 1, 3, 4]),
          ...     test_seen=np.array([2, 5]),
          ...     test_unseen=np.array([6, 7, 8]),
          ... )
          >>> dataset.seen_classes.tolist(), dataset.unseen_classes.tolist(), dataset.inputs.regions
          ([0, 1], [2], 49)

        Args:
          features: `[images, channels, regions]` or `[images, channels, height, width]`, not
            normalised; a normalised copy is kept.
          labels: `[images]` class ids from 0.
          class_embeddings: `[classes, attributes]`.
          word_vectors: `[attributes, word_dim]`.
          trainval, test_seen, test_unseen: image indices, disjoint; see `config.selection` for what
            is set apart of `trainval`.
          class_names, attribute_names: for reports; None: numbers.
          validation_classes: ids of seen classes for model selection; None: drawn by the seed.
          groups: attribute groups for `config.data.groups=data`.
          dtype: of the feature maps that are kept: float32, bfloat16 or float16.
          source: what errors call the data set.

        Raises:
          InputError: the arrays do not fit together, or a feature is not finite.
        """
        if features.ndim not in (3, 4):
            raise InputError(
                f"{source}: features has shape {features.shape}, expected [images, channels, "
                "regions] or [images, channels, height, width]"
            )
        if class_embeddings.ndim != 2:
            raise InputError(
                f"{source}: class_embeddings has shape {class_embeddings.shape}, expected "
                "[classes, attributes]"
            )
        if dtype not in FEATURE_DTYPES:
            raise InputError(
                f"{source}: dtype={dtype!r}, expected one of {', '.join(FEATURE_DTYPES)}"
            )
        maps = features.reshape(*features.shape[:2], -1)
        classes, attributes = class_embeddings.shape
        return cls(
            source=source,
            inputs=InMemoryFeatures(normalize(maps, np.dtype(dtype), source=source)),
            labels=np.asarray(labels, np.int32),
            class_embeddings=np.asarray(class_embeddings, np.float32),
            word_vectors=np.asarray(word_vectors, np.float32),
            trainval=np.asarray(trainval, np.int64),
            test_seen=np.asarray(test_seen, np.int64),
            test_unseen=np.asarray(test_unseen, np.int64),
            class_names=tuple(class_names or (f"class {k}" for k in range(classes))),
            attribute_names=tuple(attribute_names or (f"attribute {a}" for a in range(attributes))),
            validation_classes=validation_classes,
            groups=groups,
        )

    @property
    def features(self) -> FeatureMaps:
        """The inputs of a data set of feature maps.

        Raises:
          InputError: it has pictures.
        """
        if isinstance(self.inputs, Pictures):
            raise InputError(
                f"{self.source}: has pictures, expected feature maps; extract them with `dedn "
                "features extract`, then set --config.data.features and --config.data.source="
                "features"
            )
        return self.inputs

    def fingerprint(self) -> dict[str, object]:
        """Sizes and hashes that tell this data set from any other; JSON-ready."""
        return self.annotations_fingerprint() | self.inputs.fingerprint()


def with_inputs(annotations: Annotations, inputs: Inputs) -> GZSLDataset:
    """The data set of `annotations` and the images they are about.

    Raises:
      InputError: the number of images differs.
    """
    fields = {f.name: getattr(annotations, f.name) for f in dataclasses.fields(Annotations)}
    return GZSLDataset(**fields, inputs=inputs)


@dataclasses.dataclass(frozen=True)
class Task:
    """What one training phase sees: some classes, some images to train on, some to evaluate on.

    Class ids are positions in `class_ids`; classes outside the task do not exist for it.

    Attributes:
      inputs: the data set's feature maps or pictures, by the data set's image indices.
      labels: `[images]` int32 task class ids; -1 for images of classes outside the task.
      class_ids: `[task classes]` the data set's ids.
      class_embeddings: `[task classes, attributes]` float32.
      seen: `[task classes]` bool, the classes with training images.
      train, eval_seen, eval_unseen: image indices.
    """

    inputs: Inputs
    labels: np.ndarray
    class_ids: np.ndarray
    class_embeddings: np.ndarray
    seen: np.ndarray
    train: np.ndarray
    eval_seen: np.ndarray
    eval_unseen: np.ndarray


def make_task(
    dataset: GZSLDataset,
    train: np.ndarray,
    eval_seen: np.ndarray,
    eval_unseen: np.ndarray,
    class_ids: np.ndarray,
) -> Task:
    """The view of `dataset` with only the classes `class_ids`; index arrays as in `Task`."""
    to_task = np.full(dataset.num_classes, -1, np.int32)
    to_task[class_ids] = np.arange(len(class_ids), dtype=np.int32)
    seen = np.zeros(len(class_ids), bool)
    seen[to_task[dataset.labels[train]]] = True
    return Task(
        inputs=dataset.inputs,
        labels=to_task[dataset.labels],
        class_ids=class_ids,
        class_embeddings=dataset.class_embeddings[class_ids],
        seen=seen,
        train=train,
        eval_seen=eval_seen,
        eval_unseen=eval_unseen,
    )


def trainval_task(dataset: GZSLDataset) -> Task:
    """Train on all of trainval, evaluate on the test sets; seen and unseen classes are in play.

    Classes without any image are left out: they could only draw predictions that cannot be right.
    """
    return make_task(
        dataset,
        dataset.trainval,
        dataset.test_seen,
        dataset.test_unseen,
        np.union1d(dataset.seen_classes, dataset.unseen_classes),
    )


def validation_task(
    dataset: GZSLDataset, class_share: float, image_share: float, seed: int
) -> Task:
    """Seen classes play unseen; the test sets and the true unseen classes are left out entirely.

    The validation classes are the data set's own where it names some, else `class_share` of the
    seen classes drawn by `seed`. Of every other seen class, `image_share` of the training images
    (at least one, never all) are kept for evaluation.

    Args:
      dataset: the data set.
      class_share: share of seen classes, where the data set names no validation classes.
      image_share: share of each remaining class's training images.
      seed: of both draws.

    Raises:
      InputError: too few seen classes or images to set any apart.
    """
    rng = np.random.default_rng([seed, 0x76616C])  # a stream of its own: not the sampler's
    seen = dataset.seen_classes
    held = dataset.validation_classes
    if held is None:
        count = max(1, round(class_share * len(seen)))
        held = np.sort(rng.choice(seen, count, replace=False))
    kept = np.setdiff1d(seen, held)
    if not len(held) or len(kept) < 2:
        raise InputError(
            f"{dataset.source}: {len(seen)} seen classes with {len(held)} for validation leave "
            f"{len(kept)} to train on; use --config.selection.protocol=last"
        )
    labels = dataset.labels[dataset.trainval]
    train, eval_seen = [], []
    for k in kept:
        images = rng.permutation(dataset.trainval[labels == k])
        count = min(max(1, round(image_share * len(images))), len(images) - 1)
        eval_seen.append(images[:count])
        train.append(images[count:])
    eval_unseen = dataset.trainval[np.isin(labels, held)]
    if not sum(map(len, eval_seen)):
        raise InputError(
            f"{dataset.source}: every class has one training image, none can be set apart for "
            "validation; use --config.selection.protocol=last"
        )
    return make_task(
        dataset,
        np.sort(np.concatenate(train)),
        np.sort(np.concatenate(eval_seen)),
        np.sort(eval_unseen),
        seen,
    )


def fingerprint_difference(saved: dict[str, object], now: dict[str, object]) -> list[str]:
    """The fields in which two fingerprints differ."""
    keys = sorted(set(saved) | set(now))
    return [k for k in keys if json.dumps(saved.get(k)) != json.dumps(now.get(k))]
