"""One validated structure for every GZSL data set, and the tasks that can be trained on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np

from dedn_jax.data.features import FeatureMaps
from dedn_jax.errors import InputError
from dedn_jax.groups import AttributeGroups


@dataclasses.dataclass(frozen=True)
class GZSLDataset:
    """A data set for generalized zero-shot learning.

    Checked on construction, so that no later step meets a half-valid one.

    Attributes:
      source: file or name the data came from; errors begin with it.
      features: the feature maps of all images; `features[indices]` gives
        `[batch, channels, regions]`, L2-normalised over channels.
      labels: `[images]` int32 class ids in `[0, classes)`.
      class_embeddings: `[classes, attributes]` float32, as published (not normalised).
      word_vectors: `[attributes, word_dim]` float32.
      trainval, test_seen, test_unseen: int64 image indices, disjoint.
      class_names, attribute_names: strings, for reports.
      validation_classes: int64 ids of seen classes the data set sets apart for validation, or None.
      groups: attribute groups that come with the data, or None.
    """

    source: str
    features: FeatureMaps
    labels: np.ndarray
    class_embeddings: np.ndarray
    word_vectors: np.ndarray
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    validation_classes: np.ndarray | None = None
    groups: AttributeGroups | None = None

    def __post_init__(self) -> None:
        check_dataset(self)

    @property
    def num_classes(self) -> int:
        return self.class_embeddings.shape[0]

    @property
    def num_attributes(self) -> int:
        return self.class_embeddings.shape[1]

    @property
    def seen_classes(self) -> np.ndarray:
        """Ascending ids of the classes with training images."""
        return np.unique(self.labels[self.trainval])

    @property
    def unseen_classes(self) -> np.ndarray:
        """Ascending ids of the classes with unseen test images."""
        return np.unique(self.labels[self.test_unseen])

    @property
    def _group_sizes(self) -> np.ndarray:
        return np.asarray(self.groups.sizes if self.groups else (), np.int64)

    def fingerprint(self) -> dict[str, object]:
        """Sizes and hashes that tell this data set from any other; JSON-ready.

        The features enter through their shape and a sample of 64 images spread over the set, so
        that a 19 GB file is not read to the end.
        """

        def digest(*arrays: np.ndarray) -> str:
            h = hashlib.sha256()
            for a in arrays:
                h.update(repr((a.shape, a.dtype.str)).encode())
                h.update(np.ascontiguousarray(a).tobytes())
            return h.hexdigest()[:16]

        sample = np.unique(np.linspace(0, len(self.labels) - 1, 64).astype(np.int64))
        return {
            "images": len(self.labels),
            "channels": self.features.channels,
            "regions": self.features.regions,
            "classes": self.num_classes,
            "attributes": self.num_attributes,
            "labels": digest(self.labels),
            "splits": digest(self.trainval, self.test_seen, self.test_unseen),
            "class_embeddings": digest(self.class_embeddings),
            "word_vectors": digest(self.word_vectors),
            "validation_classes": (
                None if self.validation_classes is None else digest(self.validation_classes)
            ),
            "groups": None if self.groups is None else digest(self.groups.order, self._group_sizes),
            "feature_sample": digest(np.asarray(self.features[sample], np.float32)),
        }


@dataclasses.dataclass(frozen=True)
class Task:
    """What one training phase sees: some classes, some images to train on, some to evaluate on.

    Class ids are positions in `class_ids`; classes outside the task do not exist for it.

    Attributes:
      features: the data set's feature maps, indexed by the data set's image indices.
      labels: `[images]` int32 task class ids; -1 for images of classes outside the task.
      class_ids: `[task classes]` the data set's ids.
      class_embeddings: `[task classes, attributes]` float32.
      seen: `[task classes]` bool, the classes with training images.
      train, eval_seen, eval_unseen: image indices.
    """

    features: FeatureMaps
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
        features=dataset.features,
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


def check_dataset(data: GZSLDataset) -> None:
    """Checks that all fields fit together.

    Raises:
      InputError: names the source, the field, what was found and what to do.
    """
    where = data.source
    images, classes, attributes = len(data.labels), data.num_classes, data.num_attributes
    if len(data.features) != images:
        raise InputError(
            f"{where}: labels: {images} of them for {len(data.features)} images in feature_map; "
            "they must be equal"
        )
    check_labels(where, data.labels, classes)
    splits = {
        "trainval_loc": data.trainval,
        "test_seen_loc": data.test_seen,
        "test_unseen_loc": data.test_unseen,
    }
    check_splits(where, splits, data.labels)
    for field, array, shape in (
        ("att", data.class_embeddings, (classes, attributes)),
        ("w2v_att", data.word_vectors, (attributes, data.word_vectors.shape[-1])),
    ):
        if array.shape != shape:
            raise InputError(f"{where}: {field} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{where}: {field} holds NaN or infinite values; build the file again")
    if len(data.class_names) != classes or len(data.attribute_names) != attributes:
        raise InputError(
            f"{where}: {len(data.class_names)} class names and {len(data.attribute_names)} "
            f"attribute names for {classes} classes and {attributes} attributes"
        )
    if data.validation_classes is not None:
        strange = np.setdiff1d(data.validation_classes, data.seen_classes)
        if len(strange):
            raise InputError(
                f"{where}: validation class {strange[0]} is not a seen class; validation classes "
                "must have training images"
            )
    if data.groups is not None and data.groups.num_attributes != attributes:
        raise InputError(
            f"{where}: groups cover {data.groups.num_attributes} attributes of {attributes}"
        )


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """Raises InputError unless every label is a class id in `[0, classes)`."""
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"{where}: labels has shape {labels.shape}, expected [images]")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        hint = "; they look 1-based: subtract 1" if low == 1 and high == classes else ""
        raise InputError(
            f"{where}: labels run from {low} to {high}, expected 0 to {classes - 1} "
            f"(att has {classes} classes){hint}"
        )


def check_splits(where: str, splits: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """Raises InputError unless the splits are in range, disjoint, and seen/unseen as they must be.

    Args:
      where: what the message begins with.
      splits: `trainval_loc`, `test_seen_loc`, `test_unseen_loc`: 0-based image indices.
      labels: `[images]` class ids.
    """
    images = len(labels)
    for field, split in splits.items():
        if split.ndim != 1 or not len(split):
            raise InputError(f"{where}: {field} has shape {split.shape}, expected [n] with n > 0")
        if split.min() < 0 or split.max() >= images:
            base = " (1-based locations? subtract 1)" if split.max() == images else ""
            raise InputError(
                f"{where}: {field} runs from {split.min()} to {split.max()}, expected image "
                f"indices 0 to {images - 1}{base}"
            )
        if len(np.unique(split)) != len(split):
            raise InputError(f"{where}: {field} names an image twice")
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = np.intersect1d(splits[a], splits[b])
            if len(both):
                raise InputError(
                    f"{where}: {len(both)} images are in both {a} and {b} (first: {both[0]}); "
                    "splits must not overlap"
                )
    seen = np.unique(labels[splits["trainval_loc"]])
    unseen = np.unique(labels[splits["test_unseen_loc"]])
    everything = np.sort(np.concatenate(list(splits.values())))
    # Locations one too high still look like a valid split, but for the class at each border.
    shifted = everything[0] == 1 and np.array_equal(everything, np.arange(1, len(everything) + 1))
    hint = "; the locations look 1-based: subtract 1" if shifted else ""
    if len(common := np.intersect1d(seen, unseen)):
        raise InputError(
            f"{where}: class {common[0]} has images in both trainval_loc and test_unseen_loc: an "
            f"unseen class must not be trained on{hint}"
        )
    if len(strange := np.setdiff1d(np.unique(labels[splits["test_seen_loc"]]), seen)):
        raise InputError(
            f"{where}: test_seen_loc holds class {strange[0]}, which has no image in "
            f"trainval_loc{hint}"
        )


def validation_classes(
    labels: np.ndarray, trainval: np.ndarray, train_loc: np.ndarray, val_loc: np.ndarray
) -> np.ndarray | None:
    """The classes of `val_loc`, where `train_loc` and `val_loc` part the seen classes in two.

    The proposed splits define both fields over all images of seen classes, test-seen images
    included; only the classes are taken from them. Copies circulate in which the fields mean
    something else: None then.

    Args:
      labels: `[images]` class ids.
      trainval, train_loc, val_loc: 0-based image indices; the last two may hold anything.

    Returns:
      Ascending int64 class ids, or None.
    """
    seen = np.unique(labels[trainval])
    parts = []
    for location in (train_loc, val_loc):
        if not len(location) or location.min() < 0 or location.max() >= len(labels):
            return None
        parts.append(np.unique(labels[location]))
        if len(np.setdiff1d(parts[-1], seen)):
            return None
    train, held = parts
    return None if len(np.intersect1d(train, held)) else held.astype(np.int64)


def fingerprint_difference(saved: dict[str, object], now: dict[str, object]) -> list[str]:
    """The fields in which two fingerprints differ."""
    keys = sorted(set(saved) | set(now))
    return [k for k in keys if json.dumps(saved.get(k)) != json.dumps(now.get(k))]
