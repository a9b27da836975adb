"""Reads the HDF5 layout that the published DEDN code trains from.

One file per data set: `feature_map` `[images, channels, height, width]`, `labels` `[images]`,
`trainval_loc`, `test_seen_loc`, `test_unseen_loc` (0-based image indices), `att`
`[classes, attributes]` and `w2v_att` `[attributes, word_dim]`. Optional: `train_loc` and `val_loc`
or others that define the validation classes (`dedn_jax.data.validation_fields`),
`allclasses_names` and `attribute_names`. Other fields are not read.

Files are untrusted: only plain data sets stored in the file itself are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dedn_jax.data.annotations import Annotations, check_labels, check_splits
from dedn_jax.data.arrays import finite_matrix, whole_numbers
from dedn_jax.data.features.hdf5 import READ_ERRORS
from dedn_jax.data.features.maps import check_channels_first, floating_dtype
from dedn_jax.data.hdf5_chunks import check_chunks
from dedn_jax.data.sources.class_embeddings import annotations_from_file
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.data.validation_fields import VALIDATION_FIELDS, classes_of_fields
from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import hdf5_advice, what_it_is

SPLITS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
_SMALL_FIELD_BYTES = 2**30  # no field but feature_map has any business being larger
_NAMES_BYTES = 2**26  # of all names of a field


def published_annotations(
    file: h5py.File,
    where: str,
    *,
    clip_negative_embeddings: bool = False,
    class_embeddings: str | os.PathLike[str] = "",
    word_vectors: str | os.PathLike[str] = "",
) -> Annotations:
    """Reads and checks all but `feature_map`.

    Args:
      file: from `open_published`.
      where: what an error message begins with.
      clip_negative_embeddings, class_embeddings, word_vectors: as in `read_published_hdf5`.
    """
    att = _matrix(file, where, "att", "[classes, attributes]")
    classes, attributes = att.shape
    class_names = _names(file, where, "allclasses_names", "class", classes)
    if class_embeddings:
        own = annotations_from_file(class_embeddings, class_names, word_vectors)
    else:
        names = _names(file, where, "attribute_names", "attribute", attributes)
        own = {
            "class_embeddings": np.maximum(att, 0) if clip_negative_embeddings else att,
            "word_vectors": _word_vectors(file, where, att, word_vectors, names),
            "attribute_names": names,
        }
    labels = _integers(file, where, "labels")
    check_labels(where, labels, classes)
    labels = labels.astype(np.int32)
    splits = {
        field: _integers(file, where, field, required=field != "test_seen_loc") for field in SPLITS
    }
    if splits["test_seen_loc"] is None:  # conventional zero-shot learning
        splits["test_seen_loc"] = np.zeros(0, np.int64)
    check_splits(where, splits, labels)
    held = {name: _integers(file, where, name, required=False) for name in VALIDATION_FIELDS}
    held = {name: value for name, value in held.items() if value is not None}
    return Annotations(
        source=where,
        labels=labels,
        trainval=splits["trainval_loc"],
        test_seen=splits["test_seen_loc"],
        test_unseen=splits["test_unseen_loc"],
        class_names=class_names,
        validation_classes=classes_of_fields(held, labels, splits["trainval_loc"], where),
        **own,
    )


def open_published(path: Path, give: str = "set --config.data.path to") -> h5py.File:
    """Opens the file.

    Args:
      path: the file.
      give: how the user says which file, for hints.

    Raises:
      InputError: it is not an HDF5 file, or is truncated.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected an HDF5 file; {give} the file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a device or pipe, expected an HDF5 file; {give} a regular file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; {give} the HDF5 file")
    try:
        with path.open("rb"):
            pass
        if not h5py.is_hdf5(path):
            found = what_it_is(path) or f"it has {path.stat().st_size} bytes"
            raise InputError(
                f"{path}: not an HDF5 file: {found}; {give} the file with feature_map, labels "
                "and att"
            )
        # Reading needs no lock, and some file systems have none.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened: {one_line(error)}; {hdf5_advice(error)}"
        ) from error


def _field(file: h5py.File, where: str, name: str, required: bool = True) -> h5py.Dataset | None:
    """The data set `name`, stored in this very file; None where it is optional and missing."""
    try:
        link = file.get(name, getlink=True)
        # Soft and external links, external storage and virtual data sets can all name other files.
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(
                f"{where}: {name} is a link; only fields stored in the file itself are read: "
                "copy it in"
            )
        dataset = None if link is None else file[name]
    except READ_ERRORS as error:
        raise InputError(f"{where}: {name} cannot be read: {one_line(error)}") from error
    if dataset is None:
        if not required:
            return None
        found = ", ".join(repr(k)[1:-1] for k in sorted(file)[:12]) or "nothing"
        raise InputError(
            f"{where}: {name} is missing; the file holds {found}; see docs/reference/files.md for "
            "the layout"
        )
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise InputError(
            f"{where}: {name} is not an array; see docs/reference/files.md for the layout"
        )
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"{where}: {name} keeps its values in another file; only fields stored in the file "
            "itself are read: copy it in"
        )
    return dataset


def _numbers(dataset: h5py.Dataset, where: str, name: str) -> np.ndarray:
    """All values of a small field of numbers.

    Its type is checked before anything is read: where values have no fixed size, that of their
    references says nothing of how much memory they take.
    """
    try:
        if dataset.dtype.kind not in "fiu":
            raise InputError(
                f"{where}: {name} has shape {dataset.shape} and type {dataset.dtype}, expected "
                "numbers; see docs/reference/files.md for the layout"
            )
        if dataset.size * dataset.dtype.itemsize > _SMALL_FIELD_BYTES:
            raise InputError(
                f"{where}: {name} has shape {dataset.shape}, too large for this field; build "
                "the file again"
            )
        check_chunks(dataset, f"{where}: {name}")
        return np.asarray(dataset[()])
    except (*READ_ERRORS, MemoryError) as error:
        raise InputError(f"{where}: {name} cannot be read: {one_line(error)}") from error


def _matrix(file: h5py.File, where: str, name: str, expected: str) -> np.ndarray:
    """A field of finite numbers as float32."""
    dataset = _field(file, where, name)
    return finite_matrix(_numbers(dataset, where, name), where, name, expected)


def _integers(file: h5py.File, where: str, name: str, required: bool = True) -> Any:
    """A field of whole numbers as int64 `[n]`; None where it is optional and missing."""
    dataset = _field(file, where, name, required)
    return None if dataset is None else whole_numbers(_numbers(dataset, where, name), where, name)


def _names(file: h5py.File, where: str, name: str, kind: str, count: int) -> tuple[str, ...]:
    """An optional field of `count` names; `"class 0"`, `"class 1"`, ... where it is missing."""
    dataset = _field(file, where, name, required=False)
    if dataset is None:
        return tuple(f"{kind} {i}" for i in range(count))
    try:
        if h5py.check_string_dtype(dataset.dtype) is None:
            raise InputError(f"{where}: {name} has type {dataset.dtype}, expected strings")
        if dataset.size != count:
            raise InputError(
                f"{where}: {name} has {dataset.size} names, expected {count}: one for each {kind}, "
                "in the order of att"
            )
        check_chunks(dataset, f"{where}: {name}")
        text = [v.decode("utf-8", "replace") for v in _strings(dataset, where, name)]
    except (*READ_ERRORS, MemoryError) as error:
        raise InputError(f"{where}: {name} cannot be read: {one_line(error)}") from error
    # Names end up on terminals and in reports: no control characters.
    return tuple("".join(c for c in t if c.isprintable()) for t in text)


def _strings(dataset: h5py.Dataset, where: str, name: str) -> Iterator[bytes]:
    """The strings one by one: any number of them can point at one large one in the file."""
    left = _NAMES_BYTES
    if dataset.dtype.kind == "S":
        left -= dataset.size * dataset.dtype.itemsize
    for index in np.ndindex(dataset.shape) if left >= 0 else ():
        value = bytes(dataset[index])
        left -= len(value) if dataset.dtype.kind == "O" else 0
        if left < 0:
            break
        yield value
    if left < 0:
        raise InputError(
            f"{where}: {name} takes more than {_NAMES_BYTES} bytes, too large for names; build the "
            "file again"
        )


def _word_vectors(
    file: h5py.File,
    where: str,
    att: np.ndarray,
    given: str | os.PathLike[str],
    names: tuple[str, ...],
) -> np.ndarray:
    """`w2v_att`, or those of the file that is given in its place."""
    if given:
        return read_word_vectors(given, att.shape[1], names)
    w2v = _matrix(file, where, "w2v_att", "[attributes, word_dim]")
    if len(w2v) == att.shape[1]:
        return w2v
    hint = ""
    if len(w2v) == att.shape[0]:
        hint = "; att looks transposed: store it as [classes, attributes]"
    elif w2v.shape[1] == att.shape[1]:
        hint = "; w2v_att looks transposed: store it as [attributes, word_dim]"
    raise InputError(
        f"{where}: w2v_att has shape {w2v.shape}, expected [{att.shape[1]}, word_dim] because att "
        f"has {att.shape[1]} attributes{hint}"
    )


def published_feature_map(file: h5py.File, where: str, images: int) -> h5py.Dataset:
    """The feature maps, not yet read; InputError unless they are floats for `images` images."""
    dataset = _field(file, where, "feature_map")
    assert dataset is not None
    if floating_dtype(dataset) is None:
        raise InputError(
            f"{where}: feature_map has type {_type_name(dataset)}, expected float16, float32 or "
            "bfloat16"
        )
    if len(dataset.shape) != 4 or not dataset.size:
        raise InputError(
            f"{where}: feature_map has shape {dataset.shape}, expected [images, channels, height, "
            "width]"
        )
    if dataset.shape[0] != images:
        raise InputError(
            f"{where}: feature_map has {dataset.shape[0]} images, labels has {images}; build the "
            "file again"
        )
    check_channels_first(dataset.shape, f"{where}: feature_map")
    return dataset


def _type_name(dataset: h5py.Dataset) -> str:
    try:
        return str(dataset.dtype)
    except TypeError:
        return "unknown"
