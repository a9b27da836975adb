"""Reads a feature store: rows at random from its shards, or all of it into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dedn_jax.buckets.inputs import input_path
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.annotations_file import ANNOTATIONS_FILE, MAX_BYTES, load_annotations
from dedn_jax.data.features.hdf5 import check_memory
from dedn_jax.data.features.maps import (
    FEATURES,
    LARGE_SAMPLE,
    FeatureMaps,
    InMemoryFeatures,
    checked_indices,
    normalize,
)
from dedn_jax.data.features.store.manifest import (
    HEADER_BYTES,
    MANIFEST_FILE,
    PLAN_FILE,
    Manifest,
    StorePlan,
    difference_text,
    differences,
    is_complete_shard,
    read_manifest,
    read_plan,
)
from dedn_jax.data.features.store.verification import SAMPLED, check_undamaged, identity
from dedn_jax.errors import InputError
from dedn_jax.file_kinds import advice_on_unreadable
from dedn_jax.files import file_sha256, open_regular
from dedn_jax.progress import progress

_OPEN_FILES = 128  # kept open at most: many systems allow a process 1024, or 256


@dataclasses.dataclass(frozen=True)
class Store:
    """A complete store.

    Attributes:
      path: its folder.
      manifest: what it says about itself.
      annotations: of its images.
    """

    path: Path
    manifest: Manifest
    annotations: Annotations

    def features(self, dtype: Any = "float32", *, compared: bool = False) -> StoreFeatures:
        """The features, left on disk.

        Args:
          dtype: of batches: float32, bfloat16 or float16.
          compared: the fingerprint has a larger sample, of values that nobody reads whole.
        """
        return StoreFeatures(self.path, self.manifest, dtype, compared=compared)


class StoreFeatures(FeatureMaps):
    """The features of a store, left on disk; every batch is read and converted anew.

    Rows are read with `pread`, not mapped: memory does not grow with what was read, and a shard cut
    short meanwhile is an error, not the end of the process. Safe to pickle, to fork and to share
    between threads.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        dtype: Any = "float32",
        *,
        compared: bool = False,
    ) -> None:
        """Remembers where the shards are; nothing is opened.

        Args:
          folder: of the store.
          manifest: of the store.
          dtype: of the batches: float32, bfloat16 or float16.
          compared: as for `Store.features`.
        """
        self._compared = compared
        self._folder = str(Path(folder).resolve())
        self._manifest = manifest
        self._dtype = np.dtype(dtype)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_files")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def channels(self) -> int:
        return self._manifest.channels

    @property
    def regions(self) -> int:
        return self._manifest.regions

    def __len__(self) -> int:
        return self._manifest.images

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """As `FeatureMaps`.

        Raises:
          InputError: a shard is missing or truncated; an image of a store that is not normalised
            has NaN or infinite values. Those of a normalised one were checked when it was written;
            `verify` tells whether they are still the same.
        """
        indices = checked_indices(indices, len(self))
        out = np.empty((len(indices), self.channels, self.regions), self._dtype)
        for row in np.argsort(indices, kind="stable"):  # in the order on disk
            self._read(int(indices[row]), out[row : row + 1])
        return out

    def fingerprint(self) -> dict[str, object]:
        """With what the manifest says of all shards; with a larger sample where that is asked."""
        fingerprint = super().fingerprint() | {FEATURES: dict(identity(self._manifest))}
        if self._compared:
            fingerprint[LARGE_SAMPLE] = self.sample_digest(SAMPLED)
        return fingerprint

    def load_into_memory(self) -> InMemoryFeatures:
        """All features as one array of `dtype`; every shard is compared with its SHA-256.

        Raises:
          InputError: as `[indices]`, they do not fit in memory, or a shard holds something else
            than was written.
        """
        shape = (len(self), self.channels, self.regions)
        needed = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        advice = "leave them on disk with --config.data.memory_map=true"
        check_memory(needed, self._folder, self._dtype, advice)
        try:
            out = np.empty(shape, self._dtype)
        except MemoryError as error:
            raise InputError(
                f"{self._folder}: cannot allocate {needed / 1e9:.1f} GB for the features; {advice}"
            ) from error
        damaged, images = [], []
        with progress(len(self), "reading features", "image", delay=2) as bar:
            for shard, expected in enumerate(self._manifest.shards):
                found = hashlib.sha256(self._file(shard).read(HEADER_BYTES, 0))
                for image in self._manifest.image_range(shard):
                    data = self._read(image, out[image : image + 1])
                    found.update(data)
                    images.append(hashlib.sha256(data).digest())
                    bar.update()
                if found.hexdigest() != expected:
                    damaged.append(self._manifest.shard_name(shard))
        check_undamaged(Path(self._folder), self._manifest, damaged)
        return InMemoryFeatures(out, identity(self._manifest), images)

    def _read(self, image: int, out: np.ndarray) -> bytes:
        """Reads one image into `out`, `[1, channels, regions]`; its bytes."""
        manifest = self._manifest
        shard, row = divmod(image, manifest.shard_images)
        count = manifest.image_bytes
        data = self._file(shard).read(count, HEADER_BYTES + row * count)
        values = np.frombuffer(data, manifest.stored_dtype).view(manifest.value_dtype)
        values = values.reshape(1, *manifest.image_shape)
        if manifest.normalized:
            out[...] = values
        else:
            where = f"{self._folder}/{manifest.shard_name(shard)}"
            normalize(values, self._dtype, out=out, source=where, images=np.array([image]))
        return data

    def _file(self, shard: int) -> _File:
        with self._lock:
            # The least recently used comes first, and goes first.
            file = self._files.pop(shard, None)
            if file is None:
                file = _File(f"{self._folder}/{self._manifest.shard_name(shard)}")
                while len(self._files) >= _OPEN_FILES:
                    del self._files[next(iter(self._files))]
            self._files[shard] = file
            return file


class _File:
    """A file open for reading; closed with its last reference, in any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._reading():
            self._file = open_regular(Path(path))
        self._handle = self._file.fileno()

    def read(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset`; `pread` has no file position, so threads may share it."""
        with self._reading():
            data = os.pread(self._handle, count, offset)
            while len(data) < count:  # one call gives at most 2 GB, and less where it ends
                if not (more := os.pread(self._handle, count - len(data), offset + len(data))):
                    raise InputError(f"{self._path}: is truncated; copy the store again")
                data += more
        return data

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be read ({error.strerror or error}); "
                f"{advice_on_unreadable(Path(self._path), error)}"
            ) from error


def open_store(folder: str | Path) -> Store:
    """Opens a complete store; the features are left on disk.

    Args:
      folder: of the store.

    Raises:
      InputError: no store, not complete, or files are missing, damaged or of the wrong size. What
        the shards hold is checked by `verify`.
    """
    folder = input_path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a feature store")
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(_unfinished(folder))
    manifest = read_manifest(folder / MANIFEST_FILE)
    again = f"copy the store again, or remove {folder} and make it again"
    annotations_file = folder / ANNOTATIONS_FILE
    try:
        if (
            annotations_file.is_file()
            and file_sha256(annotations_file, max_bytes=MAX_BYTES) != manifest.annotations
        ):
            raise InputError(f"{annotations_file}: SHA-256 differs from {MANIFEST_FILE}; {again}")
        for i in range(manifest.num_shards):
            if not is_complete_shard(file := folder / manifest.shard_name(i), manifest, i):
                found = f"{file.stat().st_size} bytes" if file.exists() else "missing"
                size = HEADER_BYTES + len(manifest.image_range(i)) * manifest.image_bytes
                raise InputError(
                    f"{file}: {found}, expected a .npy file {manifest.shard_shape(i)} of "
                    f"{manifest.stored_dtype} and {size} bytes; {again}"
                )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error})") from error
    annotations = load_annotations(folder)
    if len(annotations.labels) != manifest.images:
        raise InputError(
            f"{annotations_file}: labels has {len(annotations.labels)} images, {MANIFEST_FILE} "
            f"has {manifest.images}; {again}"
        )
    return Store(folder, manifest, annotations)


def check_store(
    store: Store,
    *,
    pictures: str | None = None,
    transform: dict[str, Any] | None = None,
    backbone: dict[str, Any] | None = None,
) -> None:
    """Checks that a store was made from the expected input; None is not checked.

    Args:
      store: what `open_store` gave.
      pictures: digest of the pictures.
      transform: how they are prepared; every field must be equal.
      backbone: any of `name`, `sha256`, `dtype` and `class_token`; what it leaves out may be
        anything.

    Raises:
      InputError: names the field, what was found and what was expected.
    """
    where = str(store.path)
    found = store.manifest.plan_json()
    expected = {"pictures": pictures, "transform": transform, "backbone": backbone}
    advice = "; extract the features again into another folder"
    for name, value in expected.items():
        if value is None:
            continue
        if found[name] is None:
            raise InputError(
                f"{where}: does not record its {name} ({found['origin']} store), expected "
                f"{json.dumps(value)}{advice}"
            )
        there, here = found[name], json.loads(json.dumps(value))
        if name == "backbone":
            there = {k: v for k, v in ({"class_token": False} | there).items() if k in here}
        if not (differing := differences({name: there}, {name: here})):
            continue
        what = {
            "pictures": "other pictures",
            "transform": "another transform of the pictures",
            "backbone": "another backbone",
        }[name]
        raise InputError(f"{where}: was made with {what} ({difference_text(differing)}){advice}")


def _unfinished(folder: Path) -> str:
    if not (folder / PLAN_FILE).is_file():
        return (
            f"{folder}: no feature store (no {MANIFEST_FILE}); make one with `dedn features "
            "extract` or `dedn features import`"
        )
    plan, _ = read_plan(folder / PLAN_FILE)
    command = "extract" if plan.origin == "extracted" else "import"
    return (
        f"{folder}: is incomplete, {_num_complete(folder, plan)} of {plan.num_shards} shards; run "
        f"`dedn features {command}` again"
    )


def _num_complete(folder: Path, plan: StorePlan) -> int:
    try:
        shards = range(plan.num_shards)
        return sum(is_complete_shard(folder / plan.shard_name(i), plan, i) for i in shards)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error})") from error
