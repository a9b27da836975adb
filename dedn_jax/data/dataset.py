"""Annotations with their images, and the tasks that can be trained on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Integer

from dedn_jax.config_ranges import FEATURE_DTYPES
from dedn_jax.data.annotations import Annotations, check_labels, check_splits
from dedn_jax.data.arrays import as_array, finite_matrix, whole_numbers
from dedn_jax.data.features.maps import (
    FEATURES,
    LARGE_SAMPLE,
    FeatureMaps,
    InMemoryFeatures,
    ValueDigest,
    check_channels_first,
    normalize,
)
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.data.repeats import repeats
from dedn_jax.data.sources.class_embeddings import dimension_vectors
from dedn_jax.errors import InputError, check_type, printable
from dedn_jax.model.groups import AttributeGroups, as_groups
from dedn_jax.progress import note

# What a model is given, indexed by image: `inputs[indices]`, with indices in any order and with
# repeats, gives a batch.
Inputs = FeatureMaps | Pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class GZSLDataset(Annotations):
    """A data set for generalized zero-shot learning: annotations, and the images they are about.

    Attributes:
      inputs: feature maps or pictures.
      given: whether it was made by `from_arrays`, so that no file has it.
    """

    inputs: Inputs
    given: bool = False

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise InputError(
                f"{self.source}: {len(self.labels)} labels for {len(self.inputs)} images, expected "
                "as many labels as images"
            )
        super().__post_init__()

    def __repr__(self) -> str:
        """Sizes, not values: thousands of names and numbers say less."""
        seen, unseen = len(self.seen_classes), len(self.unseen_classes)
        return (
            f"<GZSLDataset {self.source}: {len(self.labels)} images, {seen} seen and {unseen} "
            f"unseen classes, {self.num_attributes} attributes>"
        )

    @classmethod
    def from_arrays(
        cls,
        *,
        features: Float[np.ndarray, "images channels *regions"],
        labels: Integer[np.ndarray, " images"],
        class_embeddings: Float[np.ndarray, "classes attributes"],
        word_vectors: Float[np.ndarray, "attributes word_dim"] | None,
        trainval: Integer[np.ndarray, " trainval"],
        test_seen: Integer[np.ndarray, " test_seen"],
        test_unseen: Integer[np.ndarray, " test_unseen"],
        class_names: Sequence[str] | np.ndarray | None = None,
        attribute_names: Sequence[str] | np.ndarray | None = None,
        validation_classes: Integer[np.ndarray, " validation_classes"] | None = None,
        groups: AttributeGroups | Mapping[str, Sequence[int]] | None = None,
        dtype: str = "float32",
        source: str = "arrays",
    ) -> GZSLDataset:
        """A data set of feature maps in memory; the same as from a published HDF5 file of them.

        Examples:
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
          >>> dataset.seen_classes.tolist(), dataset.unseen_classes.tolist()
          ([0, 1], [2])
          >>> dataset.features.channels, dataset.features.regions
          (16, 49)

        Args:
          features: `[images, channels, regions]` or `[images, channels, height, width]`, not
            normalised; a copy, L2-normalised over channels, is kept.
          labels: class ids from 0.
          class_embeddings: as published, not normalised.
          word_vectors: of the attributes; None where they have no names, as the dimensions of a
            sentence's embedding: `dimension_vectors`.
          trainval, test_seen, test_unseen: image indices from 0, disjoint.
          class_names, attribute_names: for reports, a list or array of texts; None: "class 0",
            "attribute 0", ...
          validation_classes: ids of seen classes to validate on; None: drawn by the seed.
          groups: attribute groups, for `config.data.groups=data`: indices of attributes by the name
            of their group.
          dtype: of the copy that is kept: float32, bfloat16 or float16.
          source: what error messages call the data set.

        Raises:
          InputError: an array, name or group that cannot be used, or arrays that do not fit
            together; one line that says which and why.
        """

        def array(name: str, value: object) -> np.ndarray:
            return as_array(value, f"{source}: {name}")

        def whole(name: str, value: object) -> np.ndarray:
            return whole_numbers(array(name, value), source, name)

        embeddings = finite_matrix(
            array("class_embeddings", class_embeddings),
            source,
            "class_embeddings",
            "[classes, attributes]",
        )
        classes, attributes = embeddings.shape
        names = _names(class_names, "class", classes, source)
        if word_vectors is None:
            word_vectors = dimension_vectors(embeddings, names)
        vectors = _checked_vectors(array("word_vectors", word_vectors), attributes, source)
        ids = whole("labels", labels)
        check_labels(source, ids, classes)
        splits = {"trainval": trainval, "test_seen": test_seen, "test_unseen": test_unseen}
        splits = {name: whole(name, split) for name, split in splits.items()}
        check_splits(source, splits, ids)
        if validation_classes is not None:
            validation_classes = whole("validation_classes", validation_classes)
        return cls(
            source=source,
            inputs=_normalized(array("features", features), len(ids), dtype, source),
            labels=ids.astype(np.int32),
            class_embeddings=embeddings,
            word_vectors=vectors,
            **splits,
            class_names=names,
            attribute_names=_names(attribute_names, "attribute", attributes, source),
            validation_classes=validation_classes,
            groups=None if groups is None else as_groups(groups, vectors),
            given=True,
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
        """Sizes and hashes that identify this data set; JSON-ready."""
        return self.annotations_fingerprint() | self.inputs.fingerprint()


def _names(
    given: Sequence[str] | np.ndarray | None, kind: str, count: int, source: str
) -> tuple[str, ...]:
    """The names of the classes or attributes, `kind`; made up where none are given."""
    if given is None:
        return tuple(f"{kind} {k}" for k in range(count))
    where = f"{source}: {kind}_names"
    if isinstance(given, str) or not np.iterable(given):
        raise InputError(f"{where}={repr(given)[:64]}, expected a list with a name for each {kind}")
    for position, name in enumerate(names := tuple(given)):
        check_type(f"{where}[{position}]={printable(repr(name))[:64]}", name, str, "text")
    return tuple(map(str, names))  # of NumPy's own type of text


def _checked_vectors(
    word_vectors: np.ndarray, attributes: int, source: str
) -> Float32[np.ndarray, "attributes word_dim"]:
    vectors = finite_matrix(word_vectors, source, "word_vectors", "[attributes, word_dim]")
    if len(vectors) != attributes:
        raise InputError(
            f"{source}: word_vectors has shape {vectors.shape}, expected [{attributes}, "
            f"word_dim], since class_embeddings has {attributes} attributes"
        )
    return vectors


def _normalized(features: np.ndarray, images: int, dtype: str, source: str) -> InMemoryFeatures:
    if features.dtype.kind != "f" and features.dtype != ml_dtypes.bfloat16:
        raise InputError(
            f"{source}: features has type {features.dtype}, expected floating-point numbers"
        )
    if features.ndim not in (3, 4) or not features.size:
        raise InputError(
            f"{source}: features has shape {features.shape}, expected [images, channels, regions] "
            "or [images, channels, height, width]"
        )
    if len(features) != images:
        raise InputError(
            f"{source}: features has {len(features)} images, labels has {images}, expected as many"
        )
    if dtype not in FEATURE_DTYPES:
        raise InputError(f"{source}: dtype={dtype!r}, expected one of {', '.join(FEATURE_DTYPES)}")
    check_channels_first(features.shape, f"{source}: features")
    maps = features.reshape(*features.shape[:2], -1)
    values = ValueDigest()
    values.update(maps)
    normalized = normalize(maps, np.dtype(dtype), source=f"{source}: features")
    return InMemoryFeatures(normalized, values.result(), values.images)


def with_inputs(annotations: Annotations, inputs: Inputs) -> GZSLDataset:
    """The data set of `annotations` and the images they are about.

    Feature maps that are there under two classes, or to train on and to test with, are said.

    Raises:
      InputError: the number of images differs.
    """
    fields = {f.name: getattr(annotations, f.name) for f in dataclasses.fields(Annotations)}
    dataset = GZSLDataset(**fields, inputs=inputs)
    if isinstance(inputs, InMemoryFeatures):
        for line in repeats(dataset, inputs.image_hashes, "image {}".format, "feature map"):
            note(line)
    return dataset


@dataclasses.dataclass(frozen=True)
class Task:
    """What one training phase sees: some classes, some images to train on, some to evaluate on.

    Class ids are positions in `class_ids`; classes outside the task do not exist for it.

    Attributes:
      inputs: the data set's feature maps or pictures, by the data set's image indices.
      labels: task class ids; -1 for images of classes outside the task.
      class_ids: the data set's ids of the task's classes.
      class_embeddings: of the task's classes.
      seen: whether each of the task's classes has training images.
      train, eval_seen, eval_unseen: image indices.
    """

    inputs: Inputs
    labels: Int32[np.ndarray, " images"]
    class_ids: Int[np.ndarray, " classes"]
    class_embeddings: Float32[np.ndarray, "classes attributes"]
    seen: Bool[np.ndarray, " classes"]
    train: Int[np.ndarray, " train"]
    eval_seen: Int[np.ndarray, " eval_seen"]
    eval_unseen: Int[np.ndarray, " eval_unseen"]


def make_task(
    dataset: GZSLDataset,
    train: Int[np.ndarray, " train"],
    eval_seen: Int[np.ndarray, " eval_seen"],
    eval_unseen: Int[np.ndarray, " eval_unseen"],
    class_ids: Int[np.ndarray, " classes"],
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
    validation_classes = dataset.validation_classes
    if validation_classes is None:
        count = max(1, round(class_share * len(seen)))
        validation_classes = np.sort(rng.choice(seen, count, replace=False))
    training_classes = np.setdiff1d(seen, validation_classes)
    if not len(validation_classes) or len(training_classes) < 2:
        raise InputError(
            f"{dataset.source}: {len(seen)} seen classes, {len(validation_classes)} of them for "
            f"validation, leave {len(training_classes)} to train on; use "
            "--config.selection.protocol=last"
        )
    labels = dataset.labels[dataset.trainval]
    train, eval_seen = [], []
    for k in training_classes:
        images = rng.permutation(dataset.trainval[labels == k])
        count = min(max(1, round(image_share * len(images))), len(images) - 1)
        eval_seen.append(images[:count])
        train.append(images[count:])
    eval_unseen = dataset.trainval[np.isin(labels, validation_classes)]
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
    """The fields in which two fingerprints differ.

    What stands for all values of feature maps depends on how they were read, and earlier versions
    had none of it: it is compared where both have the same.
    """
    keys = set(saved) | set(now)
    if _of(saved) != _of(now):
        keys.discard(FEATURES)
    if not (LARGE_SAMPLE in saved and LARGE_SAMPLE in now):
        keys.discard(LARGE_SAMPLE)
    return [k for k in sorted(keys) if json.dumps(saved.get(k)) != json.dumps(now.get(k))]


def _of(fingerprint: dict[str, object]) -> object:
    """What the hash of all feature maps is of."""
    found = fingerprint.get(FEATURES)
    return found.get("of") if isinstance(found, dict) else None


def pruned(task: Task, share: float, seed: int) -> Task:
    """The task with a share of each class's training images, drawn by `seed`; at least one.

    Source: of the ways to choose, drawing at random is what arXiv 2403.07854 found best together
    with distillation.
    """
    if share == 1:
        return task
    rng = np.random.default_rng([seed, 0x7072756E])  # a stream of its own
    labels = task.labels[task.train]
    kept = [
        rng.permutation(task.train[labels == k])[: max(1, round(share * (labels == k).sum()))]
        for k in np.unique(labels)
    ]
    return dataclasses.replace(task, train=np.sort(np.concatenate(kept)))
