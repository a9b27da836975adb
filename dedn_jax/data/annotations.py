"""Labels, splits, classes and attributes of a GZSL data set, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64

from dedn_jax.errors import InputError, check_type
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.norms import MIN_NORM

# Norms of rows that float32 can normalise: squares of larger ones overflow, and smaller rows are
# divided by `MIN_NORM`.
_MAX_NORM = 1e18


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """Everything about a data set for generalized zero-shot learning but the images themselves.

    Checked on construction, so that later code can rely on it.

    Attributes:
      source: file or name that the data came from; error messages begin with it.
      labels: class ids, from 0.
      class_embeddings: as published, not normalised.
      word_vectors: of the attributes.
      trainval, test_seen, test_unseen: image indices, disjoint; of the test sets one may be empty.
      class_names, attribute_names: for reports.
      validation_classes: ids of seen classes that the data set reserves for validation, or None.
      groups: attribute groups that come with the data, or None.
      unpictured_classes: ids of unseen classes without images, which are still candidates, or None.
    """

    source: str
    labels: Int32[np.ndarray, " images"]
    class_embeddings: Float32[np.ndarray, "classes attributes"]
    word_vectors: Float32[np.ndarray, "attributes word_dim"]
    trainval: Int64[np.ndarray, " trainval"]
    test_seen: Int64[np.ndarray, " test_seen"]
    test_unseen: Int64[np.ndarray, " test_unseen"]
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    validation_classes: Int64[np.ndarray, " validation_classes"] | None = None
    groups: AttributeGroups | None = None
    unpictured_classes: Int64[np.ndarray, " unpictured_classes"] | None = None

    def __post_init__(self) -> None:
        check_annotations(self)

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
    def seen(self) -> Bool[np.ndarray, " classes"]:
        """Whether each class is among the seen ones."""
        return np.isin(np.arange(self.num_classes), self.seen_classes)

    @property
    def unseen_classes(self) -> np.ndarray:
        """Ascending ids of the classes with unseen test images, and of those without any image."""
        pictured = np.unique(self.labels[self.test_unseen])
        return (
            pictured
            if self.unpictured_classes is None
            else np.union1d(pictured, self.unpictured_classes)
        )

    def annotations_fingerprint(self) -> dict[str, object]:
        """Sizes and hashes that identify these annotations; JSON-ready."""
        sizes = np.asarray(self.groups.sizes if self.groups else (), np.int64)
        result: dict[str, object] = {
            "images": len(self.labels),
            "classes": self.num_classes,
            "attributes": self.num_attributes,
            "labels": digest(self.labels),
            "splits": digest(self.trainval, self.test_seen, self.test_unseen),
            "class_embeddings": digest(self.class_embeddings),
            "word_vectors": digest(self.word_vectors),
            "validation_classes": (
                None if self.validation_classes is None else digest(self.validation_classes)
            ),
            "groups": None if self.groups is None else digest(self.groups.order, sizes),
        }
        if self.unpictured_classes is not None:
            result["unpictured_classes"] = digest(self.unpictured_classes)
        return result


def digest(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that change with any value, shape or type."""
    h = hashlib.sha256()
    for a in arrays:
        h.update(repr((a.shape, a.dtype.str)).encode())
        h.update(np.ascontiguousarray(a).tobytes())
    return h.hexdigest()[:16]


def check_annotations(data: Annotations) -> None:
    """Checks that all fields fit together.

    Raises:
      InputError: names the source, the field, what was found and what to do.
    """
    where = data.source
    for field, matrix in (("att", data.class_embeddings), ("w2v_att", data.word_vectors)):
        if matrix.ndim != 2:
            raise InputError(f"{where}: {field} has shape {matrix.shape}, expected two dimensions")
    classes, attributes = data.num_classes, data.num_attributes
    check_labels(where, data.labels, classes)
    for field, ids in (
        ("validation_classes", data.validation_classes),
        ("unpictured_classes", data.unpictured_classes),
    ):
        if ids is not None:
            _check_class_ids(where, field, ids, classes)
    splits = {
        "trainval_loc": data.trainval,
        "test_seen_loc": data.test_seen,
        "test_unseen_loc": data.test_unseen,
    }
    if data.unpictured_classes is not None:
        pictured = np.intersect1d(data.unpictured_classes, data.labels)
        if len(pictured):
            raise InputError(
                f"{where}: class {pictured[0]} is listed as having no images, but has some"
            )
    check_splits(where, splits, data.labels, unseen_images=data.unpictured_classes is None)
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
    _check_norms(data)
    if data.validation_classes is not None:
        strange = np.setdiff1d(data.validation_classes, data.seen_classes)
        if len(strange):
            raise InputError(
                f"{where}: validation class {strange[0]} is not a seen class; validation classes "
                "must have training images"
            )
    if data.groups is not None:
        _check_groups(where, data.groups, attributes)


def _check_class_ids(where: str, field: str, ids: Int[np.ndarray, " ids"], classes: int) -> None:
    """Raises InputError unless all are class ids, each once."""
    if ids.ndim != 1:
        raise InputError(f"{where}: {field} has shape {ids.shape}, expected [n]")
    strange = ids[(ids < 0) | (ids >= classes)]
    if len(strange) or len(np.unique(ids)) != len(ids):
        what = f"names class {strange[0]}" if len(strange) else "names a class twice"
        raise InputError(
            f"{where}: {field} {what}, expected ids from 0 to {classes - 1}, once each"
        )


def _check_norms(data: Annotations) -> None:
    """Raises InputError where a row that will be normalised in float32 has no direction left."""
    used = np.union1d(data.seen_classes, data.unseen_classes)
    norms = _norms(data.class_embeddings)
    wrong = used[~_fits(norms[used])]
    if len(wrong):
        k = wrong[0]
        found = f"are of norm {norms[k]:.3g}" if norms[k] else "are all 0, which describe nothing"
        advice = "scale att" if norms[k] else "describe it, or leave it out"
        raise InputError(
            f"{data.source}: attributes of class {data.class_names[k]!r} {found}; expected a norm "
            f"of {MIN_NORM:g} to {_MAX_NORM:g}: {advice}"
        )
    norms = _norms(data.word_vectors)
    if not norms.any():
        raise InputError(f"{data.source}: w2v_att is all 0; build it again")
    wrong = np.flatnonzero(~_fits(norms) & (norms > 0))  # a word may have no vector
    if len(wrong):
        a = wrong[0]
        raise InputError(
            f"{data.source}: the word vector of attribute {data.attribute_names[a]!r} is of norm "
            f"{norms[a]:.3g}; expected {MIN_NORM:g} to {_MAX_NORM:g}: scale w2v_att"
        )


def _norms(rows: Float32[np.ndarray, "rows columns"]) -> Float64[np.ndarray, " rows"]:
    return np.linalg.norm(rows.astype(np.float64), axis=1)


def _fits(norms: Float64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    return (norms >= MIN_NORM) & (norms <= _MAX_NORM)


def _check_groups(where: str, groups: AttributeGroups, attributes: int) -> None:
    """Raises InputError unless the groups are a partition of the attributes."""
    expected = "dedn_jax.model.groups.AttributeGroups(names, members) or None"
    check_type(f"{where}: groups", groups, AttributeGroups, expected)
    if len(groups.names) != len(groups.members) or not all(groups.sizes):
        raise InputError(f"{where}: groups lack names or members, expected both of each")
    if groups.num_attributes != attributes:
        raise InputError(
            f"{where}: groups cover {groups.num_attributes} attributes of {attributes}"
        )
    members = sorted(itertools.chain(*groups.members))
    if members != list(range(attributes)):
        wrong = next(m for i, m in enumerate(members) if m != i)
        raise InputError(
            f"{where}: groups name attribute {wrong} in place of another, expected every one from "
            f"0 to {attributes - 1} once"
        )


def check_labels(where: str, labels: Int[np.ndarray, " images"], classes: int) -> None:
    """Raises InputError unless every label is a class id in `[0, classes)`."""
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"{where}: labels has shape {labels.shape}, expected [images]")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        hint = "; they look 1-based: subtract 1" if low == 1 and high == classes else ""
        raise InputError(
            f"{where}: labels run from {low} to {high}, expected 0 to {classes - 1} "
            f"({classes} classes){hint}"
        )


def check_splits(
    where: str,
    splits: dict[str, Int[np.ndarray, " split"]],
    labels: Int[np.ndarray, " images"],
    *,
    unseen_images: bool = True,
) -> None:
    """Raises InputError unless the splits are in range, disjoint, and seen/unseen as they must be.

    Args:
      where: what the message begins with.
      splits: 0-based image indices by the name that messages use: training and validation, test
        seen, test unseen, in this order. Test seen may be empty, as in conventional zero-shot
        learning, where only unseen classes are tested.
      labels: class ids.
      unseen_images: whether the last split must not be empty.
    """
    trainval, test_seen, test_unseen = splits
    images = len(labels)
    for field, split in splits.items():
        may_be_empty = field == test_seen or (field == test_unseen and not unseen_images)
        if split.ndim != 1 or not (len(split) or may_be_empty):
            raise InputError(f"{where}: {field} has shape {split.shape}, expected [n] with n > 0")
        if not len(split):
            continue
        if split.min() < 0 or split.max() >= images:
            base = " (1-based locations? subtract 1)" if split.max() == images else ""
            raise InputError(
                f"{where}: {field} runs from {split.min()} to {split.max()}, expected image "
                f"indices 0 to {images - 1}{base}"
            )
        if len(np.unique(split)) != len(split):
            raise InputError(f"{where}: {field} names an image twice")
    if not len(splits[test_seen]) and not len(splits[test_unseen]):
        raise InputError(
            f"{where}: {test_seen} and {test_unseen} are empty; keep images to test with"
        )
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = np.intersect1d(splits[a], splits[b])
            if len(both):
                raise InputError(
                    f"{where}: {len(both)} images are in both {a} and {b} (first: {both[0]}); "
                    "splits must not overlap"
                )
    seen = np.unique(labels[splits[trainval]])
    unseen = np.unique(labels[splits[test_unseen]])
    everything = np.sort(np.concatenate(list(splits.values())))
    # Locations one too high still look like a valid split, but for the class at each border.
    shifted = everything[0] == 1 and np.array_equal(everything, np.arange(1, len(everything) + 1))
    hint = "; the locations look 1-based: subtract 1" if shifted else ""
    if len(common := np.intersect1d(seen, unseen)):
        raise InputError(
            f"{where}: class {common[0]} has images in both {trainval} and {test_unseen}: an "
            f"unseen class must not be trained on{hint}"
        )
    if len(strange := np.setdiff1d(np.unique(labels[splits[test_seen]]), seen)):
        raise InputError(
            f"{where}: {test_seen} holds class {strange[0]}, which has no image in {trainval}{hint}"
        )
