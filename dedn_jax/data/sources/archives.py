"""Unpacks untrusted zip and tar archives below one folder: all of an archive, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dedn_jax.data.sources.archive_members import RESERVED, Members, extract
from dedn_jax.errors import InputError
from dedn_jax.files import lock_file, missing_folders, read_json, write_json
from dedn_jax.paths import local_path

LIMIT_BYTES = 2**36  # AWA2, the largest, takes 13 GB
LIMIT_FILES = 500_000  # AWA2 has 37 thousand


class Unpacked(NamedTuple):
    """What an archive left in its folder.

    Attributes:
      entries: the names at its top level, sorted.
      sha256: of the archive, where `unpack` was told.
    """

    entries: list[str]
    sha256: str | None


def unpack(
    archive_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    limit_bytes: int = LIMIT_BYTES,
    limit_files: int = LIMIT_FILES,
    sha256: str | None = None,
) -> list[str]:
    """Unpacks a zip, tar or gzipped tar archive, told apart by content.

    Members go to a temporary folder inside `folder`; its top-level entries are moved out only when
    all are complete, and none replaces an existing one. An error leaves nothing behind. A note,
    `.unpacked-<archive>.json`, tells later calls that there is nothing left to do. Owners, times
    and permissions are not kept.

    Args:
      archive_path: the archive.
      folder: where to; created if missing.
      limit_bytes: of all files together, unpacked.
      limit_files: files and folders together.
      sha256: of the archive, for the note; not checked here.

    Returns:
      The names at the archive's top level, sorted.

    Raises:
      InputError: no such archive, unknown format, damaged, encrypted, over a limit, no space; an
        entry exists already; a member whose name leaves the folder or differs from another only
        in case, or that is neither a file, a folder nor a link to one of them.
    """
    archive, folder = local_path(archive_path), local_path(folder)
    with _locked(archive) as file:
        size = os.fstat(file.fileno()).st_size
        kept = _kept(archive, folder, size)
        if kept and all(os.path.lexists(folder / name) for name in kept):
            return sorted(kept)
        try:
            with _temporary(folder, archive.name) as temporary:
                members = Members(archive, folder, kept, size, limit_bytes, limit_files)
                extract(archive, file, temporary, members)
                entries = sorted(os.listdir(temporary))
                if not entries:
                    raise InputError(f"{archive}: holds no files; remove it and download it again")
                # Before the moves: a call after a kill then knows that what is there is complete.
                note = _note_path(folder, archive.name)
                record = {"archive": archive.name, "bytes": size, "sha256": sha256}
                write_json(note, record | {"entries": entries})
                _move(temporary, folder, entries, kept, note)
        except OSError as error:
            raise InputError(
                f"{archive}: cannot be unpacked in {folder}: {error.strerror or error}"
            ) from error
        return entries


def _kept(archive: Path, folder: Path, size: int) -> set[str]:
    """The entries that an earlier call, perhaps killed, has made of this archive.

    Raises:
      InputError: it was another archive of that name.
    """
    note = _note_path(folder, archive.name)
    earlier = _read_note(note)
    if earlier is None:
        return set()
    if earlier["bytes"] != size:
        raise InputError(
            f"{archive}: has {size} bytes, but {folder} was unpacked from an archive of "
            f"{earlier['bytes']} bytes; to unpack this one, remove {note.name} and "
            f"{', '.join(earlier['entries'])} there"
        )
    return set(earlier["entries"])


@contextmanager
def _temporary(folder: Path, archive_name: str) -> Iterator[Path]:
    """An empty folder inside `folder`, removed afterwards with all folders that stay empty."""
    temporary, made = folder / f"{RESERVED}ing-{archive_name}", missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(temporary):
            shutil.rmtree(temporary)  # of a killed process: a live one would hold the lock
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()


def unpacked(folder: Path, archive_name: str) -> Unpacked | None:
    """What `unpack` made of an archive in `folder`; None unless all of it is there.

    Raises:
      InputError: the note it left is damaged.
    """
    note = _read_note(_note_path(folder, archive_name))
    if note is None or not all(os.path.lexists(folder / name) for name in note["entries"]):
        return None
    return Unpacked(sorted(note["entries"]), note.get("sha256"))


def has_note(folder: Path, archive_name: str) -> bool:
    """Whether `unpack` has worked on that archive there, to the end or not."""
    return os.path.lexists(_note_path(folder, archive_name))


def _note_path(folder: Path, archive_name: str) -> Path:
    return folder / f"{RESERVED}ed-{archive_name}.json"


def _read_note(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    note = read_json(path)
    entries = note.get("entries")
    if (
        not isinstance(entries, list)
        or not entries
        or not all(isinstance(e, str) and "/" not in e and e.strip(".") for e in entries)
        or not isinstance(note.get("bytes"), int)
        or not isinstance(note.get("sha256"), str | None)
    ):
        raise InputError(f"{path}: not the record of an unpacked archive; remove it")
    return note


@contextmanager
def _locked(archive: Path) -> Iterator[BinaryIO]:
    """The archive, locked against a second process that would unpack it to the same place."""
    if not archive.is_file():
        kind = "is a folder, expected an archive" if archive.is_dir() else "no such archive"
        raise InputError(f"{archive}: {kind}; download it first")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise InputError(f"{archive}: cannot be read: {error.strerror or error}") from error
    with file:
        try:
            lock_file(file, archive, wait=False)
        except BlockingIOError as error:
            raise InputError(
                f"{archive}: another process is unpacking it; wait for it to finish"
            ) from error
        except OSError as error:
            if error.errno != errno.EBADF:  # NFS locks no file that is open for reading only
                raise InputError(
                    f"{archive}: cannot be locked: {error.strerror or error}"
                ) from error
        yield file


def _move(temporary: Path, folder: Path, entries: list[str], kept: set[str], note: Path) -> None:
    """All entries or none; those that an earlier, killed call moved stay."""
    moved: list[str] = []
    try:
        for name in entries:
            if os.path.lexists(folder / name):
                if name in kept:
                    continue
                raise InputError(f"{folder / name}: exists already; remove it first")
            os.rename(temporary / name, folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            with suppress(OSError):
                os.rename(folder / name, temporary / name)
        if not kept:
            note.unlink(missing_ok=True)
        raise
