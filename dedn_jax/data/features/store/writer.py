"""Writes a feature store, shard by shard; a run that was killed resumes where it stopped.

An interrupted and resumed store is equal, byte for byte, to one made without interruption. What
happens on disk, in this order: `annotations.npz`, `plan.json`, the shards in any order, then the
hashes are added to `plan.json` and it is renamed to `manifest.json`. Every file takes its name only
when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.annotations_file import (
    ANNOTATIONS_FILE,
    MAX_BYTES,
    load_annotations,
    save_annotations,
)
from dedn_jax.data.features.maps import normalize
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
from dedn_jax.errors import InputError
from dedn_jax.files import (
    atomic_file,
    file_sha256,
    hold_lock,
    missing_folders,
    open_regular,
    write_json,
)
from dedn_jax.paths import local_path
from dedn_jax.progress import progress
from dedn_jax.system_errors import remedy

_LOCK = ".store-lock"
_ENDING = r"\.[a-z0-9_]{8,16}"  # of `atomic_file`s that were never finished
_START = re.compile(rf"{re.escape(PLAN_FILE)}|{re.escape(ANNOTATIONS_FILE)}")
_UNFINISHED_START = re.compile(
    rf"\.({re.escape(PLAN_FILE)}|{re.escape(ANNOTATIONS_FILE)}){_ENDING}"
)
_UNFINISHED_SHARD = re.compile(rf"\.shard-(\d{{5,}})-of-\d{{5,}}\.npy{_ENDING}")
_LOCKS = re.compile(rf"{re.escape(_LOCK)}(-\d+)?")


class StoreWriter:
    """Writes one store; several processes may each write their share of the shards at once.

    Attributes:
      path: the folder.
      plan: what the store is to hold.
      complete: whether nothing is left to do.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: StorePlan,
        annotations: Annotations,
        process: int | None = None,
    ) -> None:
        """Takes the folder for this plan, or checks that it was taken for the same.

        Args:
          folder: new, empty, or a store of the same plan, complete or not.
          plan: what the store is to hold.
          annotations: of its images.
          process: number of this process, to keep another run out at once; None until `missing`.

        Raises:
          InputError: the folder holds something else, a store of another plan (the message names
            the fields), or cannot be written to.
        """
        if len(annotations.labels) != plan.images:
            raise ValueError(f"{len(annotations.labels)} labels for {plan.images} images")
        self.path = local_path(folder)
        self.plan = plan
        self._process: int | None = None
        self._processes = 1
        self._lock = contextlib.ExitStack()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, expected a folder; choose another")
        self.complete = self._is_complete(annotations)
        if self.complete:
            return
        self._made = missing_folders(self.path)
        with self._writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._new = not any(self.path.iterdir())
        self._refuse_others()
        try:
            with self._held(_LOCK, wait=True):
                # While this process waited, another may have come to the end.
                self.complete = self._is_complete(annotations)
                if self.complete:
                    (self.path / _LOCK).unlink(missing_ok=True)
                else:
                    self._claim(annotations)
            if process is not None and not self.complete:
                self._take(process)
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._abandon()
        self.close()

    def _abandon(self) -> None:
        """After an error: takes away the start of a store that holds no shard yet.

        Not one that an earlier run started, or that another process writes as well.
        """
        if self.complete or not self._new:
            return
        own = f"{_LOCK}-{self._process}"
        with contextlib.suppress(OSError, InputError), contextlib.ExitStack() as stack:
            stack.enter_context(self._held(_LOCK, wait=False))
            for name in sorted(p.name for p in self.path.iterdir()):
                if _LOCKS.fullmatch(name) and name not in (_LOCK, own):
                    stack.enter_context(self._held(name, wait=False))
            started = (_LOCKS, _START, _UNFINISHED_START, _UNFINISHED_SHARD)
            if all(any(s.fullmatch(p.name) for s in started) for p in self.path.iterdir()):
                self._remove(*started)
                for folder in self._made:
                    folder.rmdir()

    def close(self) -> None:
        """Lets another run have this process's shards; the end of the process does the same."""
        self._lock.close()
        self._process = None

    def missing(self, process: int = 0, processes: int = 1) -> list[int]:
        """The shards this process has still to write; it alone may write them from now on.

        Args:
          process: number of this process.
          processes: how many there are: shard `i` belongs to process `i % processes`.

        Raises:
          InputError: another run writes this process's shards.
        """
        if not 0 <= process < processes:
            raise ValueError(f"process {process} of {processes}")
        if self.complete:
            return []
        self._take(process)
        self._processes = processes
        with self._writing(self.path):
            for path in sorted(self.path.iterdir()):
                match = _UNFINISHED_SHARD.fullmatch(path.name)
                if match and int(match[1]) % processes == process:
                    path.unlink()
            mine = range(process, self.plan.num_shards, processes)
            return [i for i in mine if not is_complete_shard(self._shard(i), self.plan, i)]

    def _take(self, process: int) -> None:
        """Holds this process's lock, so that no other run writes its shards."""
        if self._process == process:
            return
        self.close()
        try:
            self._lock.enter_context(self._held(f"{_LOCK}-{process}", wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"{self.path}: another process writes this store; wait for it, or choose another "
                "folder"
            ) from error
        self._process = process

    def image_range(self, shard: int) -> range:
        """The images of a shard, by index."""
        return self.plan.image_range(shard)

    def write(self, shard: int, features: np.ndarray, *, source: str = "") -> None:
        """Writes one shard, completely or not at all.

        Args:
          shard: one of `missing()`.
          features: `[images of the shard, channels, regions]` floating-point numbers, as they come
            from the network.
          source: what a message about the features begins with; "" for the folder.

        Raises:
          InputError: a value is NaN, infinite or too large for the store's type (the message names
            the image), or the disk is full.
        """
        if self._process is None or shard % self._processes != self._process:
            raise ValueError(f"shard {shard} is not of this process: call missing() first")
        if features.shape != self.plan.shard_shape(shard):
            raise ValueError(f"features {features.shape}, expected {self.plan.shard_shape(shard)}")
        path = self._shard(shard)
        with self._writing(path), atomic_file(path) as file:
            file.write(self.plan.shard_header(shard))
            for image, values in zip(self.image_range(shard), features, strict=True):
                file.write(self._encoded(image, values, source).data)

    def holds(self, shard: int, features: np.ndarray, *, source: str = "") -> bool:
        """Whether the first images of a written shard are these.

        Args:
          shard: one that is not missing.
          features: `[n, channels, regions]`, as for `write`.
          source: as for `write`.
        """
        images = self.image_range(shard)[: len(features)]
        path = self._shard(shard)
        try:
            with open_regular(path) as file:
                file.seek(HEADER_BYTES)
                return all(
                    file.read(self.plan.image_bytes) == self._encoded(i, x, source).tobytes()
                    for i, x in zip(images, features, strict=True)
                )
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def finish(self) -> Manifest:
        """Completes the store; for process 0, after all processes have written their shards.

        Raises:
          InputError: shards are missing, another run writes the store, or the disk is full.
        """
        if self._process not in (None, 0):
            raise ValueError("only process 0 finishes a store")
        if self.complete:
            return read_manifest(self.path / MANIFEST_FILE)
        if self._process is None:
            self.missing()
        plan = self.plan
        with self._writing(self.path):
            complete = [is_complete_shard(self._shard(i), plan, i) for i in range(plan.num_shards)]
        if not all(complete):
            raise InputError(
                f"{self.path}: is incomplete, {sum(complete)} of {len(complete)} shards (first "
                f"missing: {plan.shard_name(complete.index(False))}); run all processes again"
            )
        hashes = []
        with progress(len(complete), "checking features", "shard", delay=2) as bar:
            for i in range(len(complete)):
                hashes.append(file_sha256(self._shard(i)))
                bar.update()
        start = self.path / PLAN_FILE
        with self._held(_LOCK, wait=True), self._writing(start):
            found, annotations = read_plan(start)
            manifest = Manifest(**vars(found), annotations=annotations, shards=tuple(hashes))
            # All that is not the store goes before the last step: after it nobody cleans up.
            self._remove(_UNFINISHED_START, _UNFINISHED_SHARD)
            write_json(start, manifest.to_json())
            self._remove(_LOCKS)
            os.replace(start, self.path / MANIFEST_FILE)
        self.complete = True
        self.close()
        return manifest

    def _shard(self, shard: int) -> Path:
        return self.path / self.plan.shard_name(shard)

    def _encoded(self, image: int, values: np.ndarray, source: str) -> np.ndarray:
        """One image as it is stored: `[channels, regions]`."""
        plan, where = self.plan, source or str(self.path)
        out = np.empty(plan.image_shape, plan.value_dtype)
        # Also where the result is not kept: it says whether the features can be normalised later.
        target = out if plan.normalized else np.empty(plan.image_shape, np.float32)
        normalize(
            values[None], target.dtype, out=target[None], source=where, images=np.array([image])
        )
        if not plan.normalized:
            with np.errstate(over="ignore"):
                out[:] = values
            if not np.isfinite(out).all():
                raise InputError(
                    f"{where}: image {image} (0-based) has values up to "
                    f"{np.abs(values).max():.4g}, too large for {plan.dtype}; store the "
                    "features as bfloat16 or float32, or normalised"
                )
        return out.view(plan.stored_dtype)

    def _is_complete(self, annotations: Annotations) -> bool:
        file = self.path / MANIFEST_FILE
        if not file.is_file():
            return False
        manifest = read_manifest(file)
        self._check_same("a store", manifest, manifest.annotations, annotations)
        return True

    def _claim(self, annotations: Annotations) -> None:
        plan_file, annotations_file = self.path / PLAN_FILE, self.path / ANNOTATIONS_FILE
        if plan_file.is_file():
            self._check_same("an unfinished store", *read_plan(plan_file), annotations)
            return
        self._refuse_others()
        # The plan is written second: annotations alone are what a killed start leaves.
        if annotations_file.exists() and not _same(annotations, self._annotations()):
            (self.path / _LOCK).unlink(missing_ok=True)
            raise self._not_empty(annotations_file)
        with self._writing(self.path):
            self._remove(_UNFINISHED_START)
            if not annotations_file.exists():
                save_annotations(self.path, annotations)
            value = self.plan.plan_json() | {"annotations": file_sha256(annotations_file)}
            write_json(plan_file, value)

    def _refuse_others(self) -> None:
        """Raises InputError where the folder holds what no start of a store leaves behind."""
        with self._writing(self.path):
            names = sorted(p.name for p in self.path.iterdir())
        if PLAN_FILE in names or MANIFEST_FILE in names:
            return
        for name in names:
            ours = name == ANNOTATIONS_FILE or _LOCKS.fullmatch(name)
            if not ours and not _UNFINISHED_START.fullmatch(name):
                raise self._not_empty(self.path / name)

    def _not_empty(self, found: Path) -> InputError:
        return InputError(
            f"{self.path}: is neither empty nor a feature store (found {found.name!r}); choose "
            "another folder"
        )

    def _annotations(self) -> Annotations | None:
        try:
            return load_annotations(self.path)
        except InputError:
            return None

    def _check_same(
        self, what: str, found: StorePlan, sha256: str, annotations: Annotations
    ) -> None:
        differing = differences(found.plan_json(), self.plan.plan_json())
        advice = "choose another folder, or remove this one"
        if differing:
            raise InputError(
                f"{self.path}: holds {what} with {difference_text(differing)}; {advice}"
            )
        file = self.path / ANNOTATIONS_FILE
        with self._writing(file):
            if not file.is_file() or file_sha256(file, max_bytes=MAX_BYTES) != sha256:
                raise InputError(f"{file}: is missing or damaged; {advice}")
        if not _same(annotations, load_annotations(self.path)):
            raise InputError(
                f"{self.path}: holds {what} with other annotations (labels, splits, classes or "
                f"attributes) than this one; {advice}"
            )

    def _remove(self, *patterns: re.Pattern[str]) -> None:
        for path in sorted(self.path.iterdir()):
            if any(p.fullmatch(path.name) for p in patterns):
                path.unlink(missing_ok=True)

    @contextmanager
    def _held(self, name: str, *, wait: bool) -> Iterator[None]:
        """Holds a lock file; raises BlockingIOError where it is taken and not waited for."""
        path = self.path / name
        with self._writing(path):
            held = hold_lock(path, wait=wait)
        with held:
            yield

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); "
                f"{remedy(error, 'see to its permissions')}, or choose another folder; finished "
                "shards are kept"
            ) from error


def _same(a: Annotations, b: Annotations | None) -> bool:
    return (
        b is not None
        and a.annotations_fingerprint() == b.annotations_fingerprint()
        and (a.class_names, a.attribute_names, a.groups)
        == (b.class_names, b.attribute_names, b.groups)
    )
