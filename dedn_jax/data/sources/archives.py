"""Unpacks zip and tar archives that nobody vouches for: whole and below one folder, or not at all.

A member is refused rather than mended: an archive with one bad member is not the publisher's.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import missing_folders, read_json, write_json
from dedn_jax.progress import progress

LIMIT_BYTES = 2**36  # AWA2, the largest, takes 13 GB
LIMIT_FILES = 500_000  # AWA2 has 37 thousand
_MAX_RATIO = 200  # unpacked to packed size; deflate reaches 1032, pictures and .mat files about 1
_RATIO_FREE = 2**27  # bytes below which the ratio does not matter
_MAX_HEADER = 2**22  # bytes of one long name or extended header, which tarfile holds in memory
_CHUNK = 2**20
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OWN = ".unpack"  # how the names of this module's own files start

# What the readers of zip, tar, gzip, bzip2 and lzma raise on damage; OSErrors are told apart below.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # with RecursionError (chained headers), NotImplementedError (compression)
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
    all are whole, and none takes the place of something there. An error leaves nothing behind. A
    note, `.unpacked-<archive>.json`, tells later calls that there is nothing left to do. Owners,
    times and permissions are not kept.

    Args:
      archive_path: the archive.
      folder: where to; made if missing.
      limit_bytes: of all files together, unpacked.
      limit_files: files and folders together.
      sha256: of the archive, for the note; not checked here.

    Returns:
      The names at the archive's top level, sorted.

    Raises:
      InputError: no such archive, neither format, damaged, encrypted, over a limit, no space; an
        entry is there already; a member with a name that leaves the folder, that differs from
        another only in case, or that is neither a file, a folder nor a link to one of them.
    """
    archive, folder = Path(archive_path), Path(folder)
    with _locked(archive) as file:
        size = os.fstat(file.fileno()).st_size
        note = _note_path(folder, archive.name)
        earlier = _read_note(note)
        if earlier is not None and earlier["bytes"] != size:
            raise InputError(
                f"{archive}: has {size} bytes, but {folder} holds what was unpacked from one of "
                f"{earlier['bytes']}; remove that and {note.name} to unpack this one"
            )
        kept = set(earlier["entries"]) if earlier else set()
        if kept and all(os.path.lexists(folder / name) for name in kept):
            return sorted(kept)
        budget = _Budget(archive, min(limit_bytes, _RATIO_FREE + _MAX_RATIO * size), limit_bytes)
        temporary = folder / f"{_OWN}ing-{archive.name}"
        made = missing_folders(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(temporary):
                shutil.rmtree(temporary)  # of a process that was killed; the lock says so
            temporary.mkdir()
            names = _Names(archive, folder, kept, limit_files)
            _check_space(archive, folder, size)
            _unpack_members(archive, file, temporary, names, budget)
            entries = sorted(os.listdir(temporary))
            if not entries:
                raise InputError(f"{archive}: holds no files; remove it and download it again")
            # Before the moves: what is noted and there is known to be whole, should they stop here.
            write_json(
                note,
                {"archive": archive.name, "bytes": size, "sha256": sha256, "entries": entries},
            )
            _move(temporary, folder, entries, kept, note)
        except OSError as error:
            raise _disk_error(archive, folder, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            for path in made:  # stays unless empty
                with suppress(OSError):
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
    return Unpacked(sorted(note["entries"]), note["sha256"])


def has_note(folder: Path, archive_name: str) -> bool:
    """Whether `unpack` has been at work there with that archive, to the end or not."""
    return os.path.lexists(_note_path(folder, archive_name))


def _note_path(folder: Path, archive_name: str) -> Path:
    return folder / f"{_OWN}ed-{archive_name}.json"


def _read_note(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    note = read_json(path)
    entries, sha256 = note.get("entries"), note.get("sha256")
    if (
        not isinstance(entries, list)
        or not entries
        or not all(
            isinstance(e, str) and e not in ("", ".", "..") and "/" not in e for e in entries
        )
        or not isinstance(note.get("bytes"), int)
        or not (sha256 is None or isinstance(sha256, str))
    ):
        raise InputError(f"{path}: is no note of an unpacked archive; remove it")
    return note


@contextmanager
def _locked(archive: Path) -> Iterator[BinaryIO]:
    """The archive, held against a second process that would unpack it to the same place."""
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
            raise InputError(f"{archive}: is being unpacked by another process; wait") from error
        except OSError:
            pass  # some network file systems lock no file that is open for reading only
        yield file


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{archive}: takes at least {needed} bytes more in {folder}, which has {free} free; "
            "make room or choose another folder"
        )


def _disk_error(archive: Path, folder: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{archive}: no space left to unpack it in {folder}; make room")
    if error.errno is None:  # gzip's and shutil's own
        return InputError(
            f"{archive}: damaged ({one_line(error)}); remove it and download it again"
        )
    return InputError(f"{archive}: cannot be unpacked in {folder}: {error.strerror or error}")


def _move(temporary: Path, folder: Path, entries: list[str], kept: set[str], note: Path) -> None:
    """All entries or none; those that an earlier, killed call moved stay."""
    moved: list[str] = []
    try:
        for name in entries:
            if name in kept and os.path.lexists(folder / name):
                continue
            if os.path.lexists(folder / name):  # come about since `_Names` looked
                raise InputError(f"{folder / name}: is there already; remove it first")
            os.rename(temporary / name, folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            with suppress(OSError):
                os.rename(folder / name, temporary / name)
        if not kept:
            note.unlink(missing_ok=True)
        raise


# --- what is checked of every member -----------------------------------------------------------


class _Budget:
    """Counts unpacked bytes, against the limit and against what an honest archive packs."""

    def __init__(self, archive: Path, ceiling: int, limit: int) -> None:
        self._archive = archive
        self._limit = limit
        self.left = self._ceiling = ceiling

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            why = f"{_MAX_RATIO} times its size" if self._ceiling < self._limit else "the limit"
            raise InputError(
                f"{self._archive}: unpacks to more than {self._ceiling} bytes, {why}; "
                "an archive that is not the publisher's?"
            )


class _Names:
    """The paths of an archive so far; every new one is checked on its own and against them."""

    def __init__(self, archive: Path, folder: Path, kept: set[str], limit: int) -> None:
        self._archive = archive
        self._folder = folder
        self._kept = kept
        self._limit = limit
        self.header_bytes = 2**12 * limit + _CHUNK  # all headers and padding of a tar archive
        self._known: dict[str, tuple[str, str]] = {}  # by folded path: path, kind

    def refuse(self, name: str, why: str) -> InputError:
        shown = repr(name if len(name) <= 200 else name[:200] + "...")
        return InputError(
            f"{self._archive}: member {shown} {why}; nothing was unpacked: remove it and get the "
            "publisher's archive"
        )

    def add(self, name: str, kind: str) -> str:
        """The path below the folder, "" for the folder itself.

        Args:
          name: as the archive writes it.
          kind: "folder", "file" or "link".
        """
        parts = self._parts(name)
        if not parts and kind != "folder":
            raise self.refuse(name, "has no name")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            self._enter(name, path, kind if depth == len(parts) else "folder", depth == len(parts))
        return "/".join(parts)

    def link_target(self, name: str, target: str) -> str:
        """Where a hard link points: the path of a file that came before it."""
        path = "/".join(self._parts(target, f"links to {target[:200]!r}, a path that", name))
        if self._known.get(_folded(path)) != (path, "file"):
            raise self.refuse(name, f"links to {target[:200]!r}, not a file before it")
        return path

    def check_link(self, name: str, path: str, target: str) -> None:
        """A symbolic link must not leave the folder by its own words; see also `_make_links`."""
        what = f"links to {target[:200]!r}, a path that"
        self._parts(target, what, name, up=True)
        reached = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if reached.split("/")[0] in ("..", "."):
            raise self.refuse(name, f"links to {target[:200]!r}, outside of the archive")

    def _parts(
        self, name: str, what: str = "", shown: str | None = None, up: bool = False
    ) -> list[str]:
        shown, what = name if shown is None else shown, what + " " if what else ""
        if not name or _CONTROL.search(name):
            raise self.refuse(shown, f"{what}is empty or holds control characters")
        if "\\" in name:
            raise self.refuse(shown, f"{what}holds a backslash")
        if name.startswith("/") or _DRIVE.match(name):
            raise self.refuse(shown, f"{what}is absolute")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts and not up:
            raise self.refuse(shown, f"{what}leaves its folder by '..'")
        if any(part.startswith(_OWN) for part in parts):
            raise self.refuse(shown, f"{what}starts with {_OWN}, which is kept for notes")
        return parts

    def _enter(self, name: str, path: str, kind: str, itself: bool) -> None:
        key = _folded(path)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._limit:
                raise InputError(
                    f"{self._archive}: holds more than {self._limit} files and folders, the "
                    "limit; an archive that is not the publisher's?"
                )
            if "/" not in path and path not in self._kept and os.path.lexists(self._folder / path):
                raise InputError(
                    f"{self._folder / path}: is there already, and {self._archive} would overwrite "
                    "it; move or remove it"
                )
            self._known[key] = path, kind
        elif known[0] != path:
            raise self.refuse(name, f"differs only in case from {known[0][:200]!r}")
        elif known[1] != kind or (itself and kind != "folder"):
            what = "is there twice" if itself else f"lies below a {known[1]}"
            raise self.refuse(name, what)


def _folded(path: str) -> str:
    """The same for all names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


# --- the two formats ---------------------------------------------------------------------------


def _unpack_members(
    archive: Path, file: BinaryIO, folder: Path, names: _Names, budget: _Budget
) -> None:
    start = file.read(512)
    file.seek(0)
    try:
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(archive, file, folder, names, budget)
        elif start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as stream:
                _unpack_tar(archive, file, cast(BinaryIO, stream), folder, names, budget)
        elif start[257:262] == b"ustar":
            _unpack_tar(archive, file, file, folder, names, budget)
        else:
            raise InputError(
                f"{archive}: is no zip, tar or gzipped tar; remove it and download it again"
            )
    except _DAMAGE as error:
        raise InputError(
            f"{archive}: damaged ({one_line(error)}); remove it and download it again"
        ) from error


def _copy(stream: IO[bytes], path: Path) -> Iterator[int]:
    """Writes a file of a name that nothing has, links included; sizes of what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        while data := stream.read(_CHUNK):
            out.write(data)
            yield len(data)


def _unpack_zip(
    archive: Path, file: BinaryIO, folder: Path, names: _Names, budget: _Budget
) -> None:
    with zipfile.ZipFile(file) as reader:
        paths = []
        total = 0
        for info in reader.infolist():
            name = info.filename
            if "\x00" in info.orig_filename:  # zipfile cuts the name there
                raise names.refuse(info.orig_filename, "holds control characters")
            if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, hidden headers
                raise names.refuse(name, "is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise names.refuse(name, "is neither a file nor a folder")
            paths.append(names.add(name, "folder" if info.is_dir() else "file"))
            if not info.is_dir():
                total += info.file_size
                budget.spend(info.file_size)
        _check_space(archive, folder, total)
        with _bar(archive, total) as bar:
            for info, path in zip(reader.infolist(), paths, strict=True):
                if info.is_dir():
                    (folder / path).mkdir(parents=True, exist_ok=True)
                    continue
                written = 0
                with reader.open(info) as stream:  # gives no more than was declared
                    for size in _copy(stream, folder / path):
                        written += size
                        bar.update(size)
                if written != info.file_size:
                    raise names.refuse(
                        info.filename, f"has {written} bytes, its header says {info.file_size}"
                    )


class _Forward:
    """A stream that tarfile may read only onwards, in pieces of a sane size, up to a limit."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._position = 0
        self.at_end = False  # whether the last read gave the block of zeros that ends an archive

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._stream.read(size)
        self._position += len(data)
        self.at_end = data == bytes(tarfile.BLOCKSIZE)
        if self._position > self._limit:
            raise tarfile.ReadError("headers without end")
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:  # by a negative size, say
            raise tarfile.ReadError("a member that lies before its header")
        while self._position < position:
            if not self.read(min(_CHUNK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")
        return self._position


def _unpack_tar(
    archive: Path, file: BinaryIO, stream: BinaryIO, folder: Path, names: _Names, budget: _Budget
) -> None:
    """One pass: reading the headers beforehand would mean to decompress everything twice."""
    data_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 on
    forward = _Forward(stream, budget.left + names.header_bytes)
    links: list[tuple[str, str, str]] = []
    with (
        _bar(archive, os.fstat(file.fileno()).st_size) as bar,
        tarfile.open(fileobj=cast(BinaryIO, forward), mode="r:", encoding="utf-8") as reader,
    ):
        while (member := reader.next()) is not None:
            cast(Any, reader).members.clear()  # kept for lookups by name, of which there are none
            if member.size < 0:
                raise names.refuse(member.name, f"has a size of {member.size} bytes")
            if member.isdir():
                path = names.add(member.name, "folder")
            elif member.issym():
                path = names.add(member.name, "link")
                names.check_link(member.name, path, member.linkname)
                links.append((member.name, path, member.linkname))
            elif member.islnk():
                target = names.link_target(member.name, member.linkname)
                path = names.add(member.name, "file")
            elif member.isreg() and not member.issparse():
                path = names.add(member.name, "file")
            else:
                raise names.refuse(member.name, "is neither a file, a folder nor a link")
            if data_filter is not None:
                _filtered(data_filter, member, folder, names)
            if member.isdir():
                (folder / path).mkdir(parents=True, exist_ok=True)
            elif member.islnk():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / target, folder / path)
            elif member.isreg():
                budget.spend(member.size)
                _check_space(archive, folder, member.size)
                data = reader.extractfile(member)
                assert data is not None
                for _ in _copy(data, folder / path):
                    bar.update(file.tell() - bar.n)
        if not forward.at_end:  # tarfile takes rubbish for the end as well
            raise tarfile.ReadError("it ends before its end")
        while forward.read(_CHUNK):  # to the checksum of a gzipped archive
            pass
    _make_links(links, folder, names)


def _filtered(data_filter: Any, member: tarfile.TarInfo, folder: Path, names: _Names) -> None:
    try:
        data_filter(member, str(folder))
    except tarfile.FilterError as error:
        raise names.refuse(member.name, f"is refused by tarfile: {one_line(error)}") from error


def _make_links(links: list[tuple[str, str, str]], folder: Path, names: _Names) -> None:
    """Symbolic links come last, so that nothing is written through one.

    Where they lead is asked of the file system: a link may lead through others.
    """
    for _, path, target in links:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, folder / path)
    root = folder.resolve()
    for name, path, target in links:
        try:
            reached = (folder / path).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # nothing there; a loop
            why = f"links to {target[:200]!r}, where nothing is"
            raise names.refuse(name, why) from error
        if root not in reached.parents or reached in (root / path).parents:
            raise names.refuse(name, f"links to {target[:200]!r}, outside of the archive")


def _bar(archive: Path, total: int) -> Any:
    bar = progress(total, f"unpacking {archive.name}", "B", delay=0.5)
    bar.unit_scale = True
    return bar
