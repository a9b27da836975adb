"""The members of untrusted zip and tar archives: checked one by one, then written to a folder.

A member that breaks a rule fails the whole archive: it is then not the publisher's.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import ZIP_METHODS, what_begins_so
from dedn_jax.progress import progress

RESERVED = ".unpack"  # how the names of `unpack`'s own files start
_MAX_RATIO = 200  # unpacked to packed size; deflate reaches 1032, pictures and .mat files about 1
_RATIO_FREE = 2**27  # bytes below which the ratio does not matter
_MAX_HEADER = 2**22  # bytes of one long name or extended header, which tarfile holds in memory
_MAX_NAME = 1024  # characters; the longest of the published archives has 150
_CHUNK = 2**20
_BAD_NAMES = (
    (re.compile(r".*[\x00-\x1f\x7f]", re.DOTALL), "holds control characters"),
    (re.compile(r".*\\"), "holds a backslash"),
    (re.compile(r"/|[A-Za-z]:"), "is absolute"),
    (re.compile(r"(.*/)?\.\.(/|$)"), "leaves its folder by '..'"),
    (re.compile(rf"(.*/)?{re.escape(RESERVED)}"), f"starts with the reserved {RESERVED}"),
)


class Members:
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
        if len(name) > _MAX_NAME:
            raise self.refuse(name, f"has a name of {len(name)} characters")
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


def extract(archive: Path, file: BinaryIO, folder: Path, members: Members) -> None:
    """Writes the members of an archive, told apart by content, to a folder.

    Args:
      archive: its path, for messages.
      file: the archive.
      folder: an empty folder.
      members: checks every member before it is written.

    Raises:
      InputError: an unknown format, a damaged archive, or a member that is refused.
      OSError: a file cannot be written.
    """
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
                found = what_begins_so(start) or f"it begins with {start[:12]!r}"
                raise InputError(
                    f"{archive}: not a zip, tar or gzipped tar archive: {found}; remove it and "
                    "download it again"
                )
    except InputError:
        raise
    except Exception as error:  # a hostile archive can make the readers raise anything
        if isinstance(error, OSError) and error.errno is not None:  # from the system, not from gzip
            raise
        raise InputError(
            f"{archive}: damaged ({one_line(error)}); remove it and download it again"
        ) from error


def _unpack_zip(file: BinaryIO, folder: Path, members: Members, bar: Any) -> None:
    with zipfile.ZipFile(file) as reader:
        for info in reader.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise members.refuse(info.filename, "is neither a file nor a folder")
            if info.flag_bits & 1:
                raise members.refuse(info.filename, "is encrypted")
            if info.compress_type not in ZIP_METHODS:
                raise members.refuse(
                    info.filename, f"is compressed by method {info.compress_type}, not deflate"
                )
            members.add(info.filename, "folder" if info.is_dir() else "file", info.file_size)
        for info in reader.infolist():
            path = reader.extract(info, folder)  # writes no more than the size in the header
            if not info.is_dir() and (written := os.path.getsize(path)) != info.file_size:
                raise members.refuse(
                    info.filename, f"has {written} bytes, its header says {info.file_size}"
                )
            bar.update(info.compress_size)


class _Headers:
    """A stream for tarfile that limits the size of headers and remembers the last block read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.tell, self.seek = stream.tell, stream.seek
        self._read = stream.read
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._read(size)
        return self.last


def _unpack_tar(file: BinaryIO, stream: BinaryIO, folder: Path, members: Members, bar: Any) -> None:
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


def _check_links(links: list[tarfile.TarInfo], folder: Path, members: Members) -> None:
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
