"""Downloads a data set's archives and unpacks them where the readers look for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dedn_jax.data.published import own_spelling
from dedn_jax.data.sources.archives import has_note, unpack, unpacked
from dedn_jax.data.sources.download import download, sha256_of
from dedn_jax.data.sources.published_archives import ARCHIVES, Archive
from dedn_jax.errors import InputError
from dedn_jax.files import missing_folders
from dedn_jax.paths import local_path

_DOWNLOADS = "downloads"


class Fetched(NamedTuple):
    """One archive of a data set, unpacked.

    Attributes:
      archive: what it is.
      folder: where it was unpacked to.
      entries: names of what it left there.
      sha256: of the archive; None where it was unpacked by other means than `fetch_dataset`.
      new: whether this call unpacked it.
    """

    archive: Archive
    folder: Path
    entries: list[str]
    sha256: str | None
    new: bool


def fetch_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    keep_archives: bool = False,
    sha256: Mapping[str, str] | None = None,
) -> list[Fetched]:
    """Downloads and unpacks the archives of a data set, except those that are unpacked already.

    Folders unpacked by hand count as well, whatever they hold: the readers report what is missing.

    Args:
      name: one of `ARCHIVES`, in any case.
      root: the data root. Archives are downloaded to `<root>/downloads`.
      keep_archives: leaves them there once they are unpacked.
      sha256: expected hashes by file name, for archives whose publisher gives none.

    Raises:
      InputError: unknown data set or file name, a hash for a folder unpacked by hand; see
        `download` and `unpack`.
    """
    name = own_spelling(name)
    if name not in ARCHIVES:
        raise InputError(f"{name}: cannot be downloaded; expected one of {', '.join(ARCHIVES)}")
    archives, hashes, root = ARCHIVES[name], dict(sha256 or {}), local_path(root)
    strange = hashes.keys() - {archive.file_name for archive in archives}
    if strange:
        raise InputError(
            f"{name}: --sha256 names an unknown archive {sorted(strange)[0]!r}; its archives: "
            f"{', '.join(archive.file_name for archive in archives)}"
        )
    downloads = root / _DOWNLOADS
    made = missing_folders(downloads)
    try:
        return [
            _fetch(archive, root, downloads, keep_archives, hashes.get(archive.file_name))
            for archive in archives
        ]
    finally:
        for folder in (downloads, *made):  # those that hold nothing
            with suppress(OSError):  # not there, or in use
                folder.rmdir()


def _fetch(
    archive: Archive, root: Path, downloads: Path, keep: bool, sha256: str | None
) -> Fetched:
    folder = root / archive.folder
    earlier = unpacked(folder, archive.file_name)
    if earlier is not None:
        if sha256 is not None and earlier.sha256 != sha256.strip().lower():
            raise InputError(
                f"{folder}: was unpacked from {archive.file_name} with sha256 {earlier.sha256}, "
                f"expected {sha256}; remove {', '.join(earlier.entries)} there to download it again"
            )
        return Fetched(archive, folder, earlier.entries, earlier.sha256, new=False)
    by_hand = [name for name in archive.unpacks_to if os.path.lexists(folder / name)]
    if by_hand and not has_note(folder, archive.file_name):
        if sha256 is not None:
            raise InputError(
                f"{folder / by_hand[0]}: was unpacked by hand, so the sha256 of "
                f"{archive.file_name} cannot be checked; leave out --sha256, or move that folder "
                "away to download it"
            )
        return Fetched(archive, folder, by_hand, None, new=False)
    path = download(archive, downloads, sha256=sha256)
    found = (sha256 or archive.sha256 or sha256_of(path)).strip().lower()
    entries = unpack(path, folder, sha256=found)
    if not keep:
        path.unlink()
    return Fetched(archive, folder, entries, found, new=True)
