"""Makes a feature store from an HDF5 file in the published layout."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dedn_jax.data.features.hdf5 import check_packed, read_raw
from dedn_jax.data.features.published_hdf5 import (
    open_published,
    published_annotations,
    published_feature_map,
)
from dedn_jax.data.features.store.manifest import SHARD_BYTES, StorePlan, shard_images
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path
from dedn_jax.progress import progress

# What is read at once where the file's chunks hold more images than a shard.
_GROUP_BYTES = 512 * 2**20


def import_hdf5(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float16",
    normalized: bool = True,
    word_vectors: str | os.PathLike[str] = "",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a store, shard by shard; an interrupted import resumes where it stopped.

    Args:
      path: the file (see `read_published_hdf5`).
      folder: of the store.
      dtype: of the store: float16, bfloat16 or float32.
      normalized: whether the store holds the features L2-normalised over channels.
      word_vectors: a file to read the word vectors from in place of `w2v_att`.
      shard_bytes: about the size of a shard.

    Returns:
      `folder`.

    Raises:
      InputError: the file cannot be used, or the folder holds something else.
    """
    path, folder = local_path(path), local_path(folder)
    where = str(path)
    with open_published(path, "give") as file:
        annotations = published_annotations(file, where, word_vectors=word_vectors)
        features = published_feature_map(file, where, len(annotations.labels))
        images, channels, *grid = features.shape
        plan = StorePlan(
            images=images,
            channels=channels,
            grid=(grid[0], grid[1]),
            dtype=dtype,
            normalized=normalized,
            origin="imported",
            shard_images=1,
        )
        count = min(shard_images(plan.image_bytes, shard_bytes), images)
        plan = dataclasses.replace(plan, shard_images=count)
        with StoreWriter(folder, plan, annotations) as writer:
            _write(writer, features, where)
            writer.finish()
    return folder


def _write(writer: StoreWriter, features: h5py.Dataset, where: str) -> None:
    missing, plan = writer.missing(), writer.plan
    check_packed(features, where)
    _check_same_file(writer, missing, features, where)
    left = sum(len(plan.image_range(i)) for i in missing)
    bar = progress(plan.images, "importing features", "image", initial=plan.images - left, delay=2)
    with bar:
        for group in _groups(missing, features, plan):
            start, stop = plan.image_range(group[0])[0], plan.image_range(group[-1])[-1] + 1
            block = _read(features, where, start, stop, bar)
            for i in group:
                shard = plan.image_range(i)
                part = block[shard.start - start : shard.stop - start]
                writer.write(i, part, source=f"{where}: feature_map")
            del block, part  # or two blocks would be in memory at once


def _groups(missing: list[int], features: h5py.Dataset, plan: StorePlan) -> Iterator[list[int]]:
    """The missing shards, those together that are read at once.

    One by one, but where the file's chunks hold more images than a shard: files compressed with
    h5py's defaults have chunks of some 700 images, and every shard would unpack them all again.
    """
    together = 1
    if features.chunks is not None:
        covering = -(-features.chunks[0] // plan.shard_images)
        shard = plan.shard_images * plan.channels * plan.regions * 4
        together = max(1, min(covering, _GROUP_BYTES // shard))
    for _, group in itertools.groupby(missing, lambda i: i // together):
        yield list(group)


def _read(features: h5py.Dataset, where: str, start: int, stop: int, bar: Any) -> np.ndarray:
    """Images `start` to `stop` as they are in the file, as float32."""
    _, channels, height, width = features.shape
    shape = (stop - start, channels, height * width)
    try:
        out = np.empty(shape, np.float32)
    except MemoryError as error:
        raise InputError(
            f"{where}: cannot allocate {np.prod(shape) * 4 / 1e6:.0f} MB for the images that are "
            "read together; end other programs, or give this job more memory"
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):
        read_raw(features, where, start, stop, out, bar)
    return out


def _check_same_file(
    writer: StoreWriter, missing: list[int], features: h5py.Dataset, where: str
) -> None:
    """Refuses to resume with the features of another backbone, whose plan can be the same."""
    written = sorted(set(range(writer.plan.num_shards)) - set(missing))
    if not written:
        return
    first = writer.image_range(written[0])[0]
    with progress(1, "comparing features", "image", delay=2) as bar:
        image = _read(features, where, first, first + 1, bar)
    if not writer.holds(written[0], image, source=f"{where}: feature_map"):
        raise InputError(
            f"{writer.path}: was started from another file than {where} (image {first} differs); "
            "choose another folder, or remove this one"
        )
