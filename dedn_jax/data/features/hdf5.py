"""Reads the feature maps of an HDF5 file into memory, block by block, without a second copy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dedn_jax.data.features.maps import (
    InMemoryFeatures,
    ValueDigest,
    floating_dtype,
    normalize,
)
from dedn_jax.data.hdf5_chunks import check_chunks
from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import hdf5_advice
from dedn_jax.progress import progress

_BLOCK_BYTES = 32 * 2**20  # features are read in pieces of about this size
IMPORT_HINT = (
    "train from disk: convert the file once with `dedn features import FILE --out=STORE`, then set "
    "--config.data.format=store, --config.data.path=STORE and --config.data.memory_map=true"
)
READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what h5py may raise


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


def check_memory(needed: int, where: str, dtype: np.dtype, advice: str) -> None:
    """Checks that features fit in host memory.

    Args:
      needed: bytes that they take.
      where: what an error message begins with.
      dtype: of the features.
      advice: how to do with less memory.

    Raises:
      InputError: `needed` bytes are not available.
    """
    available = available_memory()
    if available is None or needed <= available:
        return
    smaller = "use --config.data.dtype=float16, or " if dtype.itemsize > 2 else ""
    raise InputError(
        f"{where}: the features need {_size(needed)} of memory as {dtype}, {_size(available)} are "
        f"available; {smaller}{advice}"
    )


def read_features(dataset: h5py.Dataset, where: str, dtype: np.dtype) -> InMemoryFeatures:
    """Reads, checks, normalises and converts `feature_map`, image block by image block."""
    images, channels, height, width = dataset.shape
    regions = height * width
    rows, _ = _block(dataset)
    in_place = dtype == np.float32
    block_values = 0 if in_place else rows * channels * regions
    needed = images * channels * regions * dtype.itemsize + block_values * 4 + 2 * _BLOCK_BYTES
    check_memory(needed, where, dtype, IMPORT_HINT)
    try:
        out = np.empty((images, channels, regions), dtype)
        # float32 results are normalised in place; others pass through a block of float32.
        buffer = out if in_place else np.empty((rows, channels, regions), np.float32)
    except MemoryError as error:
        raise InputError(
            f"{where}: cannot allocate {_size(needed)} for the features; {IMPORT_HINT}"
        ) from error
    check_packed(dataset, where)
    values = ValueDigest()
    bar = progress(images, "reading features", "image", delay=2)
    with bar, np.errstate(over="ignore", invalid="ignore"):
        for start, stop in _ranges(0, images, rows):
            block = buffer[start:stop] if in_place else buffer[: stop - start]
            read_raw(dataset, where, start, stop, block, bar)
            values.update(block)
            normalize(
                block,
                dtype,
                out=out[start:stop],
                source=f"{where}: feature_map",
                images=np.arange(start, stop),
            )
    return InMemoryFeatures(out, values.result(), values.images)


def check_packed(dataset: h5py.Dataset, where: str) -> None:
    """Checks the chunks of `feature_map` before `read_raw` is called, once for all of them.

    Raises:
      InputError: a chunk unpacks to more than its size, or the file is damaged.
    """
    try:
        check_chunks(dataset, f"{where}: feature_map", _BLOCK_BYTES)
    except READ_ERRORS as error:
        raise InputError(
            f"{where}: feature_map cannot be read: {one_line(error)}; {hdf5_advice(error)}"
        ) from error


def read_raw(
    dataset: h5py.Dataset, where: str, start: int, stop: int, out: np.ndarray, bar: Any
) -> None:
    """Reads images `start` to `stop` of `feature_map` as they are, in pieces of about 32 MB.

    Args:
      dataset: `[images, channels, height, width]`.
      where: what an error message begins with.
      start, stop: which images.
      out: `[stop - start, channels, regions]` to write to.
      bar: a progress bar that counts images.

    Raises:
      InputError: the file is damaged.
    """
    channels, stored = dataset.shape[1], floating_dtype(dataset)
    rows, columns = _block(dataset)
    for first, last in _ranges(start, stop, rows):
        for left, right in _ranges(0, channels, columns):
            try:
                part = dataset[first:last, left:right]
            except READ_ERRORS as error:
                raise InputError(
                    f"{where}: feature_map cannot be read from image {first} on: "
                    f"{one_line(error)}; {hdf5_advice(error)}"
                ) from error
            shape = (last - first, right - left, -1)
            out[first - start : last - start, left:right] = part.view(stored).reshape(shape)
            del part  # or two parts would be in memory at once
            count = last - first
            bar.update(count * right // channels - count * left // channels)


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


def _ranges(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Splits `[start, stop)` at the multiples of `step`, so that pieces are whole chunks."""
    while start < stop:
        end = min(start - start % step + step, stop)
        yield start, end
        start = end


def _image_bytes(dataset: h5py.Dataset) -> int:
    return int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
