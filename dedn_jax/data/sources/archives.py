"""Unpacks untrusted zip and tar archives below one folder: all of an archive, or nothing.

A member that breaks a rule fails the whole archive: it is then not the publisher's.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import missing_folders, read_json, write_json
from dedn_jax.progress import progress

LIMIT_BYTES = 2**36  # AWA2, the largest, takes 13 GB
LIMIT_FILES = 500_000  # AWA2 has 37 thousand
_MAX_RATIO = 200  # unpacked to packed size; deflate reaches 1032, pictures and .mat files about 1
_RATIO_FREE = 2**27  # bytes below which the ratio does not matter
_MAX_HEADER = 2**22  # bytes of one long name or extended header, which tarfile holds in memory
_CHUNK = 2**20
_OWN = ".unpack"  # how the names of this module's own files start
_BAD_NAMES = (
    (re.compile(r".*[\x00-\x1f\x7f]", re.DOTALL), "holds control characters"),
    (re.compile(r".*\\"), "holds a backslash"),
    (re.compile(r"/|[A-Za-z]:"), "is absolute"),
    (re.compile(r"(.*/)?\.\.(/|$)"), "leaves its folder by '..'"),
    (re.compile(rf"(.*/)?{re.escape(_OWN)}"), f"starts with the reserved {_OWN}"),
)


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
    archive, folder = Path(archive_path), Path(folder)
    with _locked(archive) as file:
        size = os.fstat(file.fileno()).st_size
        note = _note_path(folder, archive.name)
        earlier = _read_note(note)
        if earlier is not None and earlier["bytes"] != size:
            raise InputError(
                f"{archive}: has {size} bytes, but {folder} was unpacked from an archive of "
                f"{earlier['bytes']} bytes; to unpack this one, remove {note.name} and "
                f"{', '.join(earlier['entries'])} there"
            )
        kept = set(earlier["entries"]) if earlier else set()
        if kept and all(os.path.lexists(folder / name) for name in kept):
            return sorted(kept)
        temporary = folder / f"{_OWN}ing-{archive.name}"
        made = missing_folders(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(temporary):
                shutil.rmtree(temporary)  # of a killed process: a live one would hold the lock
            temporary.mkdir()
            members = _Members(archive, folder, kept, size, limit_bytes, limit_files)
            _unpack_members(archive, file, temporary, members)
            entries = sorted(os.listdir(temporary))
            if not entries:
                raise InputError(f"{archive}: holds no files; remove it and download it again")
            # Before the moves: a call after a kill then knows that what is there is complete.
            write_json(
                note,
                {"archive": archive.name, "bytes": size, "sha256": sha256, "entries": entries},
            )
            _move(temporary, folder, entries, kept, note)
        except OSError as error:
            if error.errno is None:  # from gzip or shutil, not from the system
                raise _damaged(archive, error) from error
            raise InputError(
                f"{archive}: cannot be unpacked in {folder}: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            for path in made:
                with suppress(OSError):  # not empty
                    path.rmdir()
        return entries


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
    return folder / f"{_OWN}ed-{archive_name}.json"


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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{archive}: another process is unpacking it; wait for it to finish"
            ) from error
        except OSError:
            pass  # some network file systems lock no file that is open for reading only
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


class _Members:
    """The members of an archive so far; every new one is checked, also against them.

    Args:
      archive: for messages.
      folder: where it is unpacked to.
      kept: entries there that an earlier call moved.
      packed: size of the archive in bytes.
      limit_bytes, limit_files: as for `unpack`.
    """

    def __init__(
        self,
        archive: Path,
        folder: Path,
        kept: set[str],
        packed: int,
        limit_bytes: int,
        limit_files: int,
    ) -> None:
        self._archive, self._folder, self._kept = archive, folder, kept
        self._limit_files = limit_files
        self._limit, self._reason = min(
            (limit_bytes, "the limit; is it the publisher's archive?"),
            (_RATIO_FREE + _MAX_RATIO * packed, f"{_MAX_RATIO} times its size; a corrupt archive?"),
            (shutil.disk_usage(folder).free, f"all that is free in {folder}; make room"),
        )
        self._bytes = 0
        self._known: dict[str, tuple[str, str]] = {}  # by folded path: path, kind

    def refuse(self, name: str, why: str) -> InputError:
        shown = repr(name if len(name) <= 200 else name[:200] + "...")
        return InputError(
            f"{self._archive}: member {shown} {why}; nothing was unpacked: remove it and get the "
            "publisher's archive"
        )

    def add(self, name: str, kind: str, size: int = 0) -> None:
        """Checks a member before it is written.

        Args:
          name: as in the archive.
          kind: "file", "folder" or "link".
          size: unpacked, in bytes.
        """
        for pattern, why in _BAD_NAMES:
            if pattern.match(name):
                raise self.refuse(name, why)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts and kind != "folder":
            raise self.refuse(name, "has no name")
        self._bytes += size
        if self._bytes > self._limit:
            raise InputError(
                f"{self._archive}: unpacks to more than {self._limit} bytes, {self._reason}"
            )
        for depth in range(1, len(parts) + 1):
            itself = depth == len(parts)
            self._enter(name, "/".join(parts[:depth]), kind if itself else "folder", itself)

    def is_file(self, path: str) -> bool:
        """Whether a file of exactly this path was added."""
        return self._known.get(_folded(path)) == (path, "file")

    def _enter(self, name: str, path: str, kind: str, itself: bool) -> None:
        known = self._known.get(_folded(path))
        if known is None:
            if len(self._known) >= self._limit_files:
                raise InputError(
                    f"{self._archive}: holds more than {self._limit_files} files and folders, the "
                    "limit; is it the publisher's archive?"
                )
            if "/" not in path and path not in self._kept and os.path.lexists(self._folder / path):
                raise InputError(
                    f"{self._folder / path}: exists already, and {self._archive} would overwrite "
                    "it; move or remove it"
                )
            self._known[_folded(path)] = path, kind
        elif known[0] != path:
            raise self.refuse(name, f"differs only in case from {known[0][:200]!r}")
        elif known[1] != kind or (itself and kind != "folder"):
            raise self.refuse(name, "occurs twice" if itself else f"lies below a {known[1]}")


def _folded(path: str) -> str:
    """Equal for all names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _damaged(archive: Path, error: Exception) -> InputError:
    return InputError(f"{archive}: damaged ({one_line(error)}); remove it and download it again")


# --- the two formats ---------------------------------------------------------------------------


def _unpack_members(archive: Path, file: BinaryIO, folder: Path, members: _Members) -> None:
    start = file.read(512)
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    try:
        with progress(size, f"unpacking {archive.name}", "B", delay=0.5) as bar:
            if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                _unpack_zip(file, folder, members, bar)
            elif start.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=file) as stream:
                    _unpack_tar(file, cast(BinaryIO, stream), folder, members, bar)
            elif start[257:262] == b"ustar":
                _unpack_tar(file, file, folder, members, bar)
            else:
                raise InputError(
                    f"{archive}: not a zip, tar or gzipped tar archive; remove it and download it "
                    "again"
                )
    except (InputError, OSError):
        raise
    except Exception as error:  # a hostile archive can make the readers raise anything
        raise _damaged(archive, error) from error


def _unpack_zip(file: BinaryIO, folder: Path, members: _Members, bar: Any) -> None:
    with zipfile.ZipFile(file) as reader:
        for info in reader.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise members.refuse(info.filename, "is neither a file nor a folder")
            if info.flag_bits & 1:
                raise members.refuse(info.filename, "is encrypted")
            members.add(info.filename, "folder" if info.is_dir() else "file", info.file_size)
        for info in reader.infolist():
            path = reader.extract(info, folder)  # writes no more than the size in the header
            if not info.is_dir() and (written := os.path.getsize(path)) != info.file_size:
                raise members.refuse(
                    info.filename, f"has {written} bytes, its header says {info.file_size}"
                )
            bar.update(info.compress_size)


class _Headers:
    """A stream for tarfile that refuses headers of any size, and remembers the last block."""

    def __init__(self, stream: BinaryIO) -> None:
        self.tell, self.seek = stream.tell, stream.seek
        self._read = stream.read
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._read(size)
        return self.last


def _unpack_tar(
    file: BinaryIO, stream: BinaryIO, folder: Path, members: _Members, bar: Any
) -> None:
    """One pass: reading the headers beforehand would decompress everything twice."""
    headers = _Headers(stream)
    links: list[tarfile.TarInfo] = []
    with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:", encoding="utf-8") as reader:
        # Missing before Python 3.11.4; the checks here hold without it.
        reader.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        while (member := reader.next()) is not None:
            cast(Any, reader).members.clear()  # kept for lookups by name, of which there are none
            if member.size < 0:
                raise members.refuse(member.name, f"has a size of {member.size} bytes")
            if member.isdir():
                members.add(member.name, "folder")
            elif member.issym():
                members.add(member.name, "link")
                links.append(member)
            elif member.islnk():
                if not members.is_file(member.linkname.removeprefix("./")):
                    raise members.refuse(
                        member.name, f"links to {member.linkname[:200]!r}, not a file before it"
                    )
                members.add(member.name, "file")
            elif member.isreg() and not member.issparse():
                members.add(member.name, "file", member.size)
            else:
                raise members.refuse(member.name, "is neither a file, a folder nor a link")
            try:
                reader.extract(member, folder, set_attrs=False)
            except tarfile.ReadError:
                raise
            except tarfile.TarError as error:  # of the filter
                raise members.refuse(member.name, f"is unsafe: {one_line(error)}") from error
            bar.update(file.tell() - bar.n)
        if headers.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes rubbish for the end as well
            raise tarfile.ReadError("archive is truncated")
        while stream.read(_CHUNK):  # to the checksum of a gzipped archive
            pass
    _check_links(links, folder, members)


def _check_links(links: list[tarfile.TarInfo], folder: Path, members: _Members) -> None:
    """Nothing was written through a symbolic link; none may lead out of the archive either.

    The file system is asked where they lead: a link may lead through others.
    """
    root = folder.resolve()
    for link in links:
        try:
            reached = (folder / link.name).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # a loop
            why = f"links to {link.linkname[:200]!r}, which does not exist"
            raise members.refuse(link.name, why) from error
        if root not in reached.parents or reached in (root / link.name).parents:
            raise members.refuse(
                link.name, f"links to {link.linkname[:200]!r}, outside of the archive"
            )
