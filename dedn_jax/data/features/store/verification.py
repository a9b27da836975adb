"""Whether the shards of a store hold what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dedn_jax.data.features.store.manifest import MANIFEST_FILE, Manifest
from dedn_jax.errors import InputError
from dedn_jax.files import file_sha256
from dedn_jax.progress import note, progress

SAMPLED = 512  # images that stand for a store which nobody reads whole


class Store(Protocol):
    """A `dedn_jax.data.features.store.reader.Store`."""

    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> Manifest: ...


def verify(store: Store, shards: Sequence[int] | None = None) -> None:
    """Reads shards and checks their hashes.

    Args:
      store: what `open_store` gave.
      shards: their numbers; None: all.

    Raises:
      InputError: names the shards that hold something else than was written.
    """
    manifest = store.manifest
    damaged = []
    numbers = range(manifest.num_shards) if shards is None else shards
    with progress(len(numbers), "checking features", "shard", delay=2) as bar:
        for i in numbers:
            path = store.path / manifest.shard_name(i)
            try:
                if file_sha256(path) != manifest.shards[i]:
                    damaged.append(path.name)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from error
            bar.update()
    check_undamaged(store.path, manifest, damaged)


def compare_without_reading(store: Store) -> None:
    """What can be said of a store that nobody reads whole, and says that.

    Sizes have been compared by `open_store`. Shards that were written after their manifest, which a
    store has last, are read and compared; copies without their times are as well.

    Raises:
      InputError: as `verify`.
    """
    manifest = store.manifest
    try:
        written = (store.path / MANIFEST_FILE).stat().st_mtime
        files = [store.path / manifest.shard_name(i) for i in range(manifest.num_shards)]
        newer = [i for i, file in enumerate(files) if file.stat().st_mtime > written]
    except OSError as error:
        raise InputError(f"{store.path}: cannot be read ({error})") from error
    verify(store, newer)
    hashed = f" and {len(newer)} newer shards by their SHA-256" if newer else ""
    note(
        f"{store.path}: features stay on disk, compared by size, time and "
        f"{min(SAMPLED, manifest.images)} sampled images{hashed}; `dedn features check` reads all"
    )


def check_undamaged(folder: Path, manifest: Manifest, damaged: Sequence[str]) -> None:
    """Raises InputError where shards, by name, hold something else than was written."""
    if damaged:
        names = ", ".join(damaged[:4]) + (", ..." if len(damaged) > 4 else "")
        raise InputError(
            f"{folder}: {len(damaged)} of {manifest.num_shards} shards are damaged (SHA-256 "
            f"differs from {MANIFEST_FILE}): {names}; copy the store again, or make it again"
        )


def identity(manifest: Manifest) -> dict[str, str]:
    """What stands for all values in a fingerprint."""
    together = hashlib.sha256("".join(manifest.shards).encode())
    return {"of": "the SHA-256 of all shards", "sha256": together.hexdigest()}
