"""Reads the HDF5 layout that the published DEDN code trains from.

One file per data set: `feature_map` `[images, channels, height, width]`, `labels` `[images]`,
`trainval_loc`, `test_seen_loc`, `test_unseen_loc` (0-based image indices), `att`
`[classes, attributes]` and `w2v_att` `[attributes, word_dim]`. Optional: `train_loc` and `val_loc`
(they name the validation classes), `allclasses_names` and `attribute_names`. `original_att` and
whatever else the file holds are not read.

Files come from strangers: only plain data sets inside the file itself are read, and nothing in it
is executed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from dedn_jax.data.dataset import GZSLDataset, check_labels, check_splits
from dedn_jax.data.features import (
    FeatureMaps,
    InMemoryFeatures,
    MappedFeatures,
    floating_dtype,
    normalize,
)
from dedn_jax.data.wordvectors import read_word_vectors
from dedn_jax.errors import InputError

SPLITS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
_BLOCK_BYTES = 32 * 2**20  # features are read in pieces of about this size
_SMALL_FIELD_BYTES = 2**30  # no field but feature_map has any business being larger
_READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)


def read_published_hdf5(
    path: str | os.PathLike[str],
    *,
    dtype: Any = "float32",
    memory_map: bool = False,
    clip_negative_embeddings: bool = False,
    word_vectors: str | os.PathLike[str] = "",
) -> GZSLDataset:
    """Reads and checks one data set.

    Everything small is checked before the features are read. The features are then normalised and
    converted while they are read: host memory holds one copy of them, and a piece of the file.

    Args:
      path: the file.
      dtype: of the features: float32, bfloat16 or float16.
      memory_map: leave the features in the file and read each batch from there.
      clip_negative_embeddings: set negative entries of `att` to 0, as the public code's AWA2
        loader does.
      word_vectors: a file to read the word vectors from (see `read_word_vectors`) in place of
        `w2v_att`.

    Raises:
      InputError: the file or one of its fields cannot be used; one line that says which and why.
        With `memory_map`, NaN and infinite features are found when their batch is read.
    """
    path = Path(path).expanduser()
    where = str(path)
    with _open(path) as file:
        class_embeddings = _matrix(file, where, "att", "[classes, attributes]")
        classes, attributes = class_embeddings.shape
        if word_vectors:
            vectors = read_word_vectors(word_vectors, attributes)
        else:
            vectors = _matrix(file, where, "w2v_att", "[attributes, word_dim]")
            _check_attributes(where, class_embeddings, vectors)
        labels = _integers(file, where, "labels").astype(np.int32)
        check_labels(where, labels, classes)
        splits = {field: _integers(file, where, field) for field in SPLITS}
        check_splits(where, splits, labels)
        held = _validation_classes(file, where, labels, splits["trainval_loc"])
        class_names = _names(file, where, "allclasses_names", "class", classes)
        attribute_names = _names(file, where, "attribute_names", "attribute", attributes)

        feature_map = _feature_map(file, where, len(labels))
        features: FeatureMaps
        if memory_map:
            _check_chunks(feature_map, where)
            features = MappedFeatures(path, dtype)
        else:
            features = _read_features(feature_map, where, np.dtype(dtype))
    if clip_negative_embeddings:
        class_embeddings = np.maximum(class_embeddings, 0)
    return GZSLDataset(
        source=where,
        features=features,
        labels=labels,
        class_embeddings=class_embeddings,
        word_vectors=vectors,
        trainval=splits["trainval_loc"],
        test_seen=splits["test_seen_loc"],
        test_unseen=splits["test_unseen_loc"],
        class_names=class_names,
        attribute_names=attribute_names,
        validation_classes=held,
    )


# --- the file and its fields -----------------------------------------------------------------


def _open(path: Path) -> h5py.File:
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected an HDF5 file; set --config.data.path")
    if not path.is_file():
        raise InputError(f"{path}: no such file; set --config.data.path to the HDF5 file")
    try:
        with path.open("rb"):
            pass
        if not h5py.is_hdf5(path):
            raise InputError(
                f"{path}: not an HDF5 file ({path.stat().st_size} bytes); set --config.data.path "
                "to the file with feature_map, labels and att, or download it again"
            )
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened: {_line(error)}; a download that was cut short? fetch it "
            "again"
        ) from error


def _field(file: h5py.File, where: str, name: str, required: bool = True) -> h5py.Dataset | None:
    """The data set `name`, held by this very file; None where it is optional and missing."""
    try:
        link = file.get(name, getlink=True)
        # Soft and external links, external storage and virtual data sets can all name other files.
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(
                f"{where}: {name} is a link to somewhere else; only fields stored in the file "
                "itself are read: copy it in"
            )
        dataset = None if link is None else file[name]
    except _READ_ERRORS as error:
        raise InputError(f"{where}: {name} cannot be read: {_line(error)}") from error
    if dataset is None:
        if not required:
            return None
        found = ", ".join(repr(k)[1:-1] for k in sorted(file)[:12]) or "nothing"
        raise InputError(
            f"{where}: {name} is missing; the file holds {found}; see the README for the layout"
        )
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise InputError(f"{where}: {name} is not an array; see the README for the layout")
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"{where}: {name} keeps its values in another file; only fields stored in the file "
            "itself are read: copy it in"
        )
    return dataset


def _values(dataset: h5py.Dataset, where: str, name: str) -> np.ndarray:
    """All values of a small field, without axes of length 1 beyond the first two."""
    try:
        if dataset.size * dataset.dtype.itemsize > _SMALL_FIELD_BYTES:
            raise InputError(
                f"{where}: {name} has shape {dataset.shape}, far more than any data set has; "
                "build the file again"
            )
        return np.asarray(dataset[()])
    except (*_READ_ERRORS, MemoryError) as error:
        raise InputError(f"{where}: {name} cannot be read: {_line(error)}") from error


def _matrix(file: h5py.File, where: str, name: str, expected: str) -> np.ndarray:
    """A field of finite numbers as float32."""
    dataset = _field(file, where, name)
    array = _values(dataset, where, name)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(
            f"{where}: {name} has shape {array.shape} and type {array.dtype}, expected numbers "
            f"{expected}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(
            f"{where}: {name} holds NaN or infinite values (first in row {row}); build the file "
            "again"
        )
    return array


def _integers(file: h5py.File, where: str, name: str, required: bool = True) -> Any:
    """A field of whole numbers as int64 `[n]`; `[n, 1]` and `[1, n]`, as MATLAB writes, too."""
    dataset = _field(file, where, name, required)
    if dataset is None:
        return None
    array = _values(dataset, where, name)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: {name} has shape {array.shape} and type {array.dtype}, expected whole "
            "numbers [n]"
        )
    # A uint16 that went below zero comes back as 65535: the range checks catch it.
    whole = array.astype(np.int64) if np.isfinite(array).all() else None
    if whole is None or not np.array_equal(whole, array):
        raise InputError(f"{where}: {name} holds values that are not whole numbers")
    return whole


def _names(file: h5py.File, where: str, name: str, kind: str, count: int) -> tuple[str, ...]:
    """An optional field of `count` names; `"class 0"`, `"class 1"`, ... where it is missing."""
    dataset = _field(file, where, name, required=False)
    if dataset is None:
        return tuple(f"{kind} {i}" for i in range(count))
    array = _values(dataset, where, name).reshape(-1)
    if array.dtype.kind not in "SO" or not all(isinstance(v, bytes | str) for v in array):
        raise InputError(f"{where}: {name} has type {dataset.dtype}, expected strings")
    if len(array) != count:
        raise InputError(
            f"{where}: {name} has {len(array)} names for {count} ({kind} by {kind}); names must "
            "be in the order of att"
        )
    text = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array]
    # Names end up on terminals and in reports: no control characters.
    return tuple("".join(c for c in t if c.isprintable()) for t in text)


# --- checks across fields ----------------------------------------------------------------------


def _check_attributes(where: str, att: np.ndarray, w2v: np.ndarray) -> None:
    if len(w2v) == att.shape[1]:
        return
    hint = ""
    if len(w2v) == att.shape[0]:
        hint = "; att looks transposed: store it as [classes, attributes]"
    elif w2v.shape[1] == att.shape[1]:
        hint = "; w2v_att looks transposed: store it as [attributes, word_dim]"
    raise InputError(
        f"{where}: w2v_att has shape {w2v.shape}, expected [{att.shape[1]}, word_dim] because att "
        f"has {att.shape[1]} attributes{hint}"
    )


def _validation_classes(
    file: h5py.File, where: str, labels: np.ndarray, trainval: np.ndarray
) -> np.ndarray | None:
    """The classes of `val_loc`, where `train_loc` and `val_loc` part the seen classes in two.

    The proposed splits define both fields over all images of seen classes, test-seen images
    included; only the classes are taken from them. Copies circulate in which the fields are
    missing or mean something else: None then.
    """
    classes = []
    seen = np.unique(labels[trainval])
    for name in ("train_loc", "val_loc"):
        location = _integers(file, where, name, required=False)
        if location is None or not len(location):
            return None
        if location.min() < 0 or location.max() >= len(labels):
            return None
        classes.append(np.unique(labels[location]))
        if len(np.setdiff1d(classes[-1], seen)):
            return None
    train, held = classes
    return None if len(np.intersect1d(train, held)) else held.astype(np.int64)


def _feature_map(file: h5py.File, where: str, images: int) -> h5py.Dataset:
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
            f"{where}: feature_map has {dataset.shape[0]} images, labels has {images}; they must "
            "be equal"
        )
    return dataset


def _check_chunks(dataset: h5py.Dataset, where: str) -> None:
    """Refuses to read single images from a file in which that cannot end well."""
    if dataset.chunks is None:
        return
    touched = dataset.chunks[0] * _image_bytes(dataset)
    if touched > _BLOCK_BYTES:
        raise InputError(
            f"{where}: feature_map is stored in chunks of {dataset.chunks[0]} images, so that "
            f"every image read would unpack {_size(touched)}; use --config.data.memory_map=false, "
            "or rewrite the file: h5repack -f feature_map:NONE -l feature_map:CONTI OLD NEW"
        )


def available_memory() -> int | None:
    """Bytes of host memory a new array can have; None where the system does not say.

    What the kernel calls available (free, or a cache that can go), within the limit of the
    container or batch job.
    """
    limits = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    if not limits:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(file).read_text()))
    return min(limits, default=None)


def _check_memory(needed: int, where: str, dtype: np.dtype) -> None:
    available = available_memory()
    if available is None or needed <= available:
        return
    smaller = " or --config.data.dtype=float16" if dtype.itemsize > 2 else ""
    raise InputError(
        f"{where}: feature_map takes {_size(needed)} of memory as {dtype}, {_size(available)} are "
        f"available; use --config.data.memory_map=true{smaller}"
    )


# --- reading the features ----------------------------------------------------------------------


def _read_features(dataset: h5py.Dataset, where: str, dtype: np.dtype) -> InMemoryFeatures:
    """Reads, checks, normalises and converts `feature_map`, image block by image block."""
    images, channels, height, width = dataset.shape
    regions = height * width
    rows, columns = _block(dataset)
    in_place = dtype == np.float32
    block_values = 0 if in_place else rows * channels * regions
    needed = images * channels * regions * dtype.itemsize + block_values * 4 + 2 * _BLOCK_BYTES
    _check_memory(needed, where, dtype)
    stored = floating_dtype(dataset)
    try:
        out = np.empty((images, channels, regions), dtype)
        # float32 results are normalised where they lie; others pass through a block of float32.
        buffer = out if in_place else np.empty((rows, channels, regions), np.float32)
    except MemoryError as error:
        raise InputError(
            f"{where}: {_size(needed)} of memory for feature_map cannot be had; use "
            "--config.data.memory_map=true"
        ) from error
    bar = tqdm(total=images, unit=" images", desc="reading features", delay=2, leave=False)
    with bar, np.errstate(over="ignore", invalid="ignore"):
        for start, stop in _ranges(images, rows):
            block = buffer[start:stop] if in_place else buffer[: stop - start]
            for left, right in _ranges(channels, columns):
                try:
                    part = dataset[start:stop, left:right]
                except _READ_ERRORS as error:
                    raise InputError(
                        f"{where}: feature_map cannot be read from image {start} on: "
                        f"{_line(error)}; fetch the file again"
                    ) from error
                block[:, left:right] = part.view(stored).reshape(stop - start, -1, regions)
                del part  # else it would still be there while the next one is read
                bar.update(start + (stop - start) * right // channels - bar.n)
            normalize(
                block,
                dtype,
                out=out[start:stop],
                source=f"{where}: feature_map",
                images=np.arange(start, stop),
            )
    return InMemoryFeatures(out)


def _block(dataset: h5py.Dataset) -> tuple[int, int]:
    """How many images, and how many of their channels, to read at once.

    Whole chunks, so that none is unpacked twice: published files compressed with h5py's defaults
    have chunks of some 700 images by 128 channels by one region.
    """
    images, channels = dataset.shape[:2]
    least_rows, least_columns = (dataset.chunks or (1, channels))[:2]
    image = _image_bytes(dataset)
    rows = least_rows * max(1, _BLOCK_BYTES // (least_rows * image))
    if least_rows * image <= _BLOCK_BYTES:
        return min(rows, images), channels
    column = max(1, min(rows, images) * image // channels)
    columns = least_columns * max(1, _BLOCK_BYTES // (least_columns * column))
    return min(rows, images), min(columns, channels)


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, step):
        yield start, min(start + step, total)


def _image_bytes(dataset: h5py.Dataset) -> int:
    return int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize


def _type_name(dataset: h5py.Dataset) -> str:
    try:
        return str(dataset.dtype)
    except TypeError:
        return "unknown"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
