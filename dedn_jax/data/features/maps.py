"""Feature maps, indexed by image: held in memory, or left in their HDF5 file."""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from dedn_jax.data.annotations import digest
from dedn_jax.errors import InputError, one_line

# Below this a region's norm counts as this, so that an all-zero region stays zero.
MIN_NORM = 1e-12

# A bfloat16 array has no HDF5 type of its own: h5py writes it as two opaque bytes.
_OPAQUE_PAIR = np.dtype("V2")
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class FeatureMaps(abc.ABC):
    """Feature maps of all images, L2-normalised over channels in every region.

    `features[indices]`, with int `[batch]` in any order and with repeats, gives
    `[batch, channels, regions]` in the store's `dtype`.

    Attributes:
      origin: what they were made from, where that is known; part of the fingerprint.
    """

    origin: Mapping[str, object] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype: ...

    @property
    @abc.abstractmethod
    def channels(self) -> int: ...

    @property
    @abc.abstractmethod
    def regions(self) -> int: ...

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, indices: np.ndarray) -> np.ndarray: ...

    def fingerprint(self) -> dict[str, object]:
        """What tells these feature maps from any other; JSON-ready.

        Their shape and a sample of 64 images spread over the set, so that a 19 GB file is not read
        to the end.
        """
        sample = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64))
        return {
            "channels": self.channels,
            "regions": self.regions,
            "feature_sample": digest(np.asarray(self[sample], np.float32)),
            **self.origin,
        }


class InMemoryFeatures(FeatureMaps):
    """One array in host memory."""

    def __init__(self, array: np.ndarray) -> None:
        """Keeps `array`: `[images, channels, regions]`, already normalised (see `normalize`)."""
        if array.ndim != 3:
            raise ValueError(f"expected [images, channels, regions], got shape {array.shape}")
        self._array = np.ascontiguousarray(array)

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def channels(self) -> int:
        return self._array.shape[1]

    @property
    def regions(self) -> int:
        return self._array.shape[2]

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._array.take(checked_indices(indices, len(self)), axis=0)


class MappedFeatures(FeatureMaps):
    """The field of an HDF5 file that is left on disk; every batch is read and normalised anew.

    Values that lie in one piece, uncompressed, are memory-mapped; else rows are read through h5py.
    Gives the same numbers as `InMemoryFeatures`. Safe to pickle, to fork and to share between
    threads: each process opens the file for itself.
    """

    _handle: h5py.Dataset | None  # of this process; None until rows are first read
    _map: np.memmap | None

    def __init__(self, path: str | Path, dtype: Any, *, field: str = "feature_map") -> None:
        """Opens the file.

        Args:
          path: an HDF5 file.
          dtype: of the batches: float32, bfloat16 or float16.
          field: name of the data set, `[images, channels, height, width]`.

        Raises:
          InputError: the file cannot be opened or has no such field of floating-point numbers.
        """
        self._path = str(Path(path).resolve())
        self._field = field
        self._dtype = np.dtype(dtype)
        self._reset()
        dataset, self._stored = self._open()
        self._shape: tuple[int, ...] = dataset.shape
        self._offset = contiguous_offset(dataset)
        if self._offset is None:
            self._handle = dataset
        else:  # the map needs no open HDF5 file
            dataset.file.close()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._handle = None
        self._map = None
        self._process = os.getpid()

    def _open(self) -> tuple[h5py.Dataset, np.dtype]:
        try:
            dataset = h5py.File(self._path, "r", locking="best-effort")[self._field]
            stored = floating_dtype(dataset)
        except (OSError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self._path}: cannot read {self._field}: {one_line(error)}"
            ) from error
        if stored is None or len(dataset.shape) != 4:
            raise InputError(
                f"{self._path}: {self._field} has type {dataset.dtype} and shape {dataset.shape}, "
                "expected floating-point numbers [images, channels, height, width]"
            )
        return dataset, stored

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_lock", "_handle", "_map", "_process"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def channels(self) -> int:
        return self._shape[1]

    @property
    def regions(self) -> int:
        return self._shape[2] * self._shape[3]

    @property
    def memory_mapped(self) -> bool:
        """Whether batches come from a memory map (else rows are read through h5py)."""
        return self._offset is not None

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """As `FeatureMaps`.

        Raises:
          InputError: the file has gone or is damaged, or an image has NaN or infinite values.
        """
        indices = checked_indices(indices, len(self))
        raw = self._mapped_rows(indices) if self._offset is not None else self._rows(indices)
        raw = raw.reshape(len(indices), self.channels, self.regions)
        where = f"{self._path}: {self._field}"
        return normalize(raw, self._dtype, source=where, images=indices)

    def _mapped_rows(self, indices: np.ndarray) -> np.ndarray:
        if self._map is None:
            try:
                self._map = np.memmap(
                    self._path, self._stored, "r", offset=self._offset or 0, shape=self._shape
                )
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self._path}: cannot map {self._field}: {one_line(error)}"
                ) from error
        return self._map.take(indices, axis=0)

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        if self._process != os.getpid():  # forked: HDF5 must not share an open file with its parent
            self._reset()
        unique, inverse = np.unique(indices, return_inverse=True)
        with self._lock:
            if self._handle is None:
                self._handle, _ = self._open()
            dataset = self._handle
            raw = np.empty((len(unique), *self._shape[1:]), dataset.dtype)
            try:
                for row, image in enumerate(unique):
                    dataset.read_direct(raw, np.s_[int(image)], np.s_[row])
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(
                    f"{self._path}: cannot read {self._field}: {one_line(error)}"
                ) from error
        return raw.view(self._stored)[inverse]


def normalize(
    raw: np.ndarray,
    dtype: Any,
    *,
    out: np.ndarray | None = None,
    source: str = "feature_map",
    images: np.ndarray | None = None,
) -> np.ndarray:
    """L2-normalises feature maps over channels in every region: `x / max(||x||, 1e-12)`.

    Computed in float32, image by image: the numbers do not depend on how images are batched, and
    little memory is needed besides the result. Source: the features as the public code uses them.

    Args:
      raw: `[images, channels, regions]`, any floating-point type.
      dtype: of the result: float32, bfloat16 or float16.
      out: `[images, channels, regions]` of that dtype to write to; may be `raw` itself.
      source: what an error message begins with.
      images: `[images]` the index by which an error message calls each image; default: position.

    Returns:
      `[images, channels, regions]`.

    Raises:
      InputError: an image has NaN or infinite values, or values too large to square.
    """
    if out is None:
        out = np.empty(raw.shape, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(len(raw)):
            x = raw[i].astype(np.float32, copy=False)
            norm = np.sqrt(np.einsum("cr,cr->r", x, x))
            if not np.isfinite(norm).all():
                image = i if images is None else images[i]
                raise InputError(
                    f"{source}: image {image} (0-based) has NaN or infinite values, or values too "
                    "large to normalise; extract its features again"
                )
            scale = np.maximum(norm, np.float32(MIN_NORM))
            if out.dtype == np.float32:
                np.divide(x, scale, out=out[i])
            else:
                out[i] = x / scale
    return out


def floating_dtype(dataset: h5py.Dataset) -> np.dtype | None:
    """The NumPy type of a data set's values, bfloat16 included; None where they are no floats."""
    try:
        dtype = dataset.dtype
    except TypeError:  # an HDF5 type that NumPy has no equivalent for
        return None
    if dtype == _OPAQUE_PAIR and dtype.names is None:
        return _BFLOAT16
    return dtype if dtype.kind == "f" else None


def contiguous_offset(dataset: h5py.Dataset) -> int | None:
    """Where in its file a data set's values lie in one uncompressed piece, in bytes; else None."""
    dtype = floating_dtype(dataset)
    stored = dataset.id.get_type()
    if (
        dtype is None
        or dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS
        or dataset.external
        or dataset.file.userblock_size
        # h5py widens types NumPy lacks: the bytes in the file are then not what `dtype` says.
        or stored.get_size() != dtype.itemsize
        or (dtype != _BFLOAT16 and not stored.equal(h5py.h5t.py_create(dtype)))
        or dataset.id.get_storage_size() != dataset.size * dtype.itemsize
    ):
        return None
    return dataset.id.get_offset()


def checked_indices(indices: np.ndarray, images: int) -> np.ndarray:
    """The indices as int64; IndexError unless they are `[batch]` of whole numbers in range."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise IndexError(f"expected [batch] integers, got {indices.dtype} {indices.shape}")
    if indices.size and not 0 <= indices.min() <= indices.max() < images:
        raise IndexError(f"indices {indices.min()} to {indices.max()} of {images} images")
    return indices.astype(np.int64, copy=False)
