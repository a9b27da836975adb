"""Reads the splits, class attributes and picture names of the xlsa17 benchmark.

Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly"
(TPAMI 2018): one folder per data set with `att_splits.mat` (`att` `[attributes, classes]`,
`original_att`, `allclasses_names`, `trainval_loc`, `test_seen_loc`, `test_unseen_loc`, and in some
copies `train_loc`, `val_loc`) and `res101.mat` (`image_files`, `labels`, and `features`, which is
not read); the archive has `valclasses1.txt` beside them. Locations and labels count from 1. Picture
names carry the folders of the disk they were made on. FLO comes in the same two files, its `att` of
sentences, without names of classes.

A label is a class's row in `allclasses_names`, which is also its column in `att`. In CUB that is
not the number in the folder's name: `001.Black_footed_Albatross` is row 151 of some copies.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from dedn_jax.data.annotations import check_splits
from dedn_jax.data.published import PUBLISHED, own_spelling
from dedn_jax.data.sources.matfile import MatValue, read_mat
from dedn_jax.data.validation_fields import (
    VALIDATION_FIELDS,
    classes_of_fields,
    classes_of_names,
)
from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines
from dedn_jax.paths import local_path

_VALIDATION_NAMES = "valclasses1.txt"  # of the archive's first fold, which is that of the fields
_MAX_LIST_BYTES = 2**20
_SPLITS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")


@dataclasses.dataclass(frozen=True)
class Xlsa17:
    """One data set's splits and class attributes, checked; everything counts from 0.

    Attributes:
      source: the folder they came from.
      image_files: `[images]` picture paths relative to the data set's picture root, with `/`; of
        sets of one's own as stored (see `locate_pictures`). None where `res101.mat` is missing.
      labels: `[images]` int32 class ids; None where `res101.mat` is missing.
      trainval, test_seen, test_unseen: int64 image indices, disjoint, in the file's order.
      validation_classes: int64 ids of the seen classes that the files reserve, or None.
      class_names: one per class, in the order of the labels.
      class_embeddings: `[classes, attributes]` float32, `att` as published: of length 1, FLO's of
        any.
      original_att: `[classes, attributes]` float32 in the data set's own units (CUB: percent; AWA:
        0 to 100, -1 where unknown; SUN: share of votes), or None.
    """

    source: str
    image_files: tuple[str, ...] | None
    labels: np.ndarray | None
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    validation_classes: np.ndarray | None
    class_names: tuple[str, ...]
    class_embeddings: np.ndarray
    original_att: np.ndarray | None


def read_xlsa17(folder: str | os.PathLike[str], name: str) -> Xlsa17:
    """Reads and checks one data set of the benchmark.

    Args:
      folder: `.../xlsa17/data`; the files are `<folder>/<name>/att_splits.mat` and, where pictures
        are wanted, `<folder>/<name>/res101.mat`.
      name: CUB, SUN, AWA2, AWA1, APY, FLO, in any case, or that of one's own set in this layout.

    Returns:
      The data set. Without `res101.mat`, `image_files`, `labels` and what follows from them
      (`validation_classes`) are None, and only what needs no labels is checked.

    Raises:
      InputError: a file or variable missing, damaged or of the wrong kind; counts
        that do not fit together; locations or labels that do not count from 1 or lie past the end;
        splits that overlap, or that train on an unseen class; pictures listed twice, outside the
        known picture folder, or in another class's folder.
    """
    name = own_spelling(name)
    directory = entry_named(local_path(folder), name)
    path = directory / "att_splits.mat"
    where = str(path)
    found = read_mat(
        path, ("att", *_SPLITS), ("original_att", "allclasses_names", *VALIDATION_FIELDS)
    )
    att = _matrix(found["att"], where, "att")
    classes = att.shape[1]
    names = _class_names(found.get("allclasses_names"), where, att.shape)
    original = found.get("original_att")
    if original is not None:
        original = _matrix(original, where, "original_att")
        if original.shape != att.shape:
            raise InputError(f"{where}: original_att has shape {original.shape}, att {att.shape}")
    splits = {
        field: _integers(found[field], where, field, empty=field == "test_seen_loc")
        for field in _SPLITS
    }

    image_files = labels = held = None
    if (directory / "res101.mat").exists():
        image_files, labels = _pictures(directory / "res101.mat", name, names, classes)
    _check_locations(where, splits, None if labels is None else len(labels))
    splits = {field: location - 1 for field, location in splits.items()}
    if labels is not None:
        check_splits(where, splits, labels)
        held = _validation_classes(found, directory, labels, splits["trainval_loc"], names)
    return Xlsa17(
        source=str(directory),
        image_files=image_files,
        labels=labels,
        trainval=splits["trainval_loc"],
        test_seen=splits["test_seen_loc"],
        test_unseen=splits["test_unseen_loc"],
        validation_classes=held,
        class_names=names,
        class_embeddings=np.ascontiguousarray(att.T),
        original_att=None if original is None else np.ascontiguousarray(original.T),
    )


def entry_named(folder: Path, name: str) -> Path:
    """The file or folder of a name, or else the only one whose name differs in case alone."""
    if (folder / name).exists() or not folder.is_dir():
        return folder / name
    alike = [path for path in folder.iterdir() if path.name.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else folder / name


def _validation_classes(
    found: dict[str, MatValue],
    directory: Path,
    labels: np.ndarray,
    trainval: np.ndarray,
    class_names: tuple[str, ...],
) -> np.ndarray | None:
    """Those that `att_splits.mat` names, else those of `valclasses1.txt`, if any."""
    where = str(directory / "att_splits.mat")
    # Some copies hold the fields, but empty.
    there = {name: found[name] for name in VALIDATION_FIELDS if len(found.get(name, ()))}
    fields = {name: _integers(value, where, name) - 1 for name, value in there.items()}
    listed = directory / _VALIDATION_NAMES
    if not fields and listed.exists():
        lines = read_text_lines(listed, _MAX_LIST_BYTES, "expected the name of a class a line")
        names = [line.strip() for line in lines if line.strip()]
        return classes_of_names(names, class_names, np.unique(labels[trainval]), str(listed))
    return classes_of_fields(fields, labels, trainval, where)


def relative_picture(path: str, picture_folders: dict[str, str]) -> str | None:
    """A picture's path below the picture root, or None where it cannot be told or trusted.

    What stands before the last known picture folder is the disk of whoever made the file, and goes:
    `/BS/xian/work/data/Animals_with_Attributes2//JPEGImages/ox/ox_1.jpg` becomes
    `Animals_with_Attributes2/JPEGImages/ox/ox_1.jpg`.

    Args:
      path: as stored; `/` or `\\` between folders.
      picture_folders: as in `dedn_jax.data.published.Published`.
    """
    parts = [p for p in path.replace("\\", "/").split("/") if p not in ("", ".")]
    marks = [i for i, part in enumerate(parts[:-1]) if part in picture_folders]
    if not marks or not path.isprintable():
        return None
    below = parts[marks[-1] + 1 :]
    if ".." in below:
        return None
    return "/".join([picture_folders[parts[marks[-1]]], *below])


def _parts_of(path: str) -> str | None:
    """A stored path with single `/`; None where it cannot be trusted."""
    parts = [p for p in path.replace("\\", "/").split("/") if p not in ("", ".")]
    return "/".join(parts) if parts and ".." not in parts and path.isprintable() else None


def _pictures(
    path: Path, name: str, class_names: tuple[str, ...], classes: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Relative picture paths and 0-based labels of `res101.mat`."""
    where, known = str(path), PUBLISHED.get(name)
    found = read_mat(path, ("image_files", "labels"))
    stored = found["image_files"]
    if not isinstance(stored, list):
        raise InputError(f"{where}: image_files holds numbers, expected a cell array of paths")
    labels = _integers(found["labels"], where, "labels")
    if len(labels) != len(stored):
        raise InputError(
            f"{where}: {len(labels)} labels for {len(stored)} image_files; expected one for each"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 1 or high > classes:
        based = low == 0 and high < classes
        hint = "they look 0-based: add 1" if based else "do the two files belong together?"
        raise InputError(
            f"{where}: labels run from {low} to {high}, expected 1 to {classes} (att of "
            f"att_splits.mat has {classes} classes); {hint}"
        )
    files: dict[str, int] = {}
    result = []
    numbers = {class_name: k + 1 for k, class_name in enumerate(class_names)}
    for i, (text, label) in enumerate(zip(stored, labels.tolist(), strict=True), 1):
        file = relative_picture(text, known.picture_folders) if known else _parts_of(text)
        if file is None:
            folders = known.picture_folders if known else ()
            roots = " or ".join(f"{folder}/" for folder in folders)
            expected = f"with {roots} in it and no '..' after that" if known else "without '..'"
            raise InputError(
                f"{where}: image_files {i} is {text[:200]!r}, expected a path {expected}"
            )
        first = files.setdefault(file, i)
        if first != i and not (known and known.repeats):
            raise InputError(f"{where}: image_files {first} and {i} are the same picture, {file}")
        if known and known.named_folders:
            # Only a folder that names another class is wrong: names may be spelt in other ways.
            own = numbers.get(file.split("/")[-2], label)
            if own != label:
                raise InputError(
                    f"{where}: image_files {i} ({file}) lies in the folder of class {own} and has "
                    f"label {label}; do att_splits.mat and res101.mat belong together?"
                )
        result.append(file)
    return tuple(result), (labels - 1).astype(np.int32)


def _check_locations(where: str, splits: dict[str, np.ndarray], images: int | None) -> None:
    """Raises InputError unless the 1-based locations are in range, unique and disjoint.

    Args:
      where: what the message begins with.
      splits: 1-based image numbers, by field.
      images: how many images there are; None: not known, any number.
    """
    for field, location in splits.items():
        if not len(location):
            continue
        low, high = int(location.min()), int(location.max())
        if low < 1:
            hint = "; they look 0-based: add 1 to all locations" if low == 0 else ""
            raise InputError(f"{where}: {field} holds {low}, but locations count from 1{hint}")
        if images is not None and high > images:
            raise InputError(
                f"{where}: {field} holds {high}, but res101.mat has {images} images; do the two "
                "files belong together?"
            )
        if len(np.unique(location)) != len(location):
            raise InputError(f"{where}: {field} holds an image more than once")
    fields = list(splits)
    for i, a in enumerate(fields):
        for b in fields[i + 1 :]:
            if len(both := np.intersect1d(splits[a], splits[b])):
                raise InputError(
                    f"{where}: {len(both)} images are in both {a} and {b} (first: {both[0]}); "
                    "splits must not overlap"
                )


def _matrix(value: MatValue, where: str, field: str) -> np.ndarray:
    """`[attributes, classes]` float32, finite."""
    if isinstance(value, list):
        raise InputError(f"{where}: {field} holds strings, expected numbers [attributes, classes]")
    if value.ndim != 2 or not value.size:
        raise InputError(
            f"{where}: {field} has shape {value.shape}, expected [attributes, classes]"
        )
    with np.errstate(over="ignore"):
        matrix = value.astype(np.float32)
    if not np.isfinite(matrix).all():
        column = int(np.flatnonzero(~np.isfinite(matrix).all(axis=0))[0]) + 1
        raise InputError(f"{where}: {field} holds NaN or infinite values (first in class {column})")
    return matrix


def _integers(value: MatValue, where: str, field: str, *, empty: bool = False) -> np.ndarray:
    """A row or column of whole numbers as int64 `[n]`, n > 0 unless it may be `empty`."""
    if isinstance(value, list):
        raise InputError(f"{where}: {field} holds strings, expected whole numbers")
    if empty and not value.size:
        return np.zeros(0, np.int64)
    if not value.size or value.size != max(value.shape):
        raise InputError(f"{where}: {field} has shape {value.shape}, expected [n, 1] with n > 0")
    # Compared before the conversion: NaN and numbers past int64 have no int64.
    flat = value.reshape(-1)
    if (
        not (np.isfinite(flat) & (abs(flat.astype(np.float64)) < 2**53)).all()
        or (flat != np.floor(flat)).any()
    ):
        raise InputError(
            f"{where}: {field} holds values that are not whole numbers; it numbers images from 1"
        )
    return flat.astype(np.int64)


def _class_names(value: MatValue | None, where: str, att_shape: tuple[int, ...]) -> tuple[str, ...]:
    """One name per class; `"class 1"`, `"class 2"`, ... where the file has none."""
    attributes, classes = att_shape
    if value is None:
        return tuple(f"class {k + 1}" for k in range(classes))
    if not isinstance(value, list):
        raise InputError(f"{where}: allclasses_names holds numbers, expected a cell array of names")
    if len(value) != classes:
        hint = "; att looks transposed" if len(value) == attributes else ""
        raise InputError(
            f"{where}: allclasses_names has {len(value)} names, att has {classes} classes (shape "
            f"{att_shape}, expected [attributes, classes]){hint}"
        )
    # Names end up on terminals and in reports: no control characters.
    names = tuple("".join(c for c in text if c.isprintable()) for text in value)
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{where}: allclasses_names holds {twice[:64]!r} twice")
    return names
