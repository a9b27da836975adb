"""Downloads the data sets' archives: resumed where they broke off, checked, whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import file_sha256, read_json, write_json
from dedn_jax.progress import progress

_MAX_BYTES = 2**35  # of an archive whose size is not known; the largest, AWA2's, has 13 GB
_CHUNK = 2**20
_ATTEMPTS = 5  # in a row that bring nothing new
_BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
_TIMEOUT = (15, 60)  # seconds to connect, and without a byte
_MAX_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
      url: http or https.
      file_name: its name on disk.
      folder: where it unpacks to, below the data root.
      size: in bytes; None: as the server says.
      sha256: in hexadecimal; None: not published.
      unpacks_to: folders at its top level that nothing else makes there.
    """

    url: str
    file_name: str
    folder: str
    size: int | None = None
    sha256: str | None = None
    unpacks_to: tuple[str, ...] = ()


_XLSA17 = Archive(
    url="https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip",
    file_name="xlsa17.zip",
    folder=".",
    unpacks_to=("xlsa17",),
)

# By data set. The folders are those that `dedn_jax.data.sources.xlsa17` looks for pictures in.
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "CUB": (
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            file_name="CUB_200_2011.tgz",
            folder="CUB",
            size=1_150_585_339,
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            unpacks_to=("CUB_200_2011",),  # and a file, attributes.txt
        ),
        _XLSA17,
    ),
    "SUN": (
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB_Images.tar.gz",
            file_name="SUNAttributeDB_Images.tar.gz",
            folder="SUN",
            unpacks_to=("images",),
        ),
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB.tar.gz",
            file_name="SUNAttributeDB.tar.gz",
            folder="SUN",
            unpacks_to=("SUNAttributeDB",),  # names of pictures and attributes
        ),
        _XLSA17,
    ),
    "AWA2": (
        Archive(
            url="https://cvml.ista.ac.at/AwA2/AwA2-data.zip",
            file_name="AwA2-data.zip",
            folder="AWA2",
            unpacks_to=("Animals_with_Attributes2",),
        ),
        _XLSA17,
    ),
}


def download(
    archive: Archive, folder: str | os.PathLike[str], *, sha256: str | None = None
) -> Path:
    """Downloads an archive unless it is there.

    It grows as `<file_name>.part` and takes its name once it is whole and its hash is right; a
    call that was interrupted goes on where it stopped, as long as the server's file is the same.

    Args:
      archive: what to download.
      folder: where to; made if missing.
      sha256: expected; None: the archive's own. With neither, the file must have the size that
        the server states; `sha256_of` gives the hash to ask for the next time.

    Returns:
      Path of the file.

    Raises:
      InputError: unreachable, refused by the server, another size or hash than expected (the file
        downloaded is removed, a file that was there is left), no space (what was downloaded stays,
        for the next call).
    """
    expected = _checked_hash(archive, sha256)
    path = Path(folder) / archive.file_name
    if os.path.lexists(path):
        _check_present(archive, path, expected)
        return path
    part = path.with_name(f"{path.name}.part")
    note = path.with_name(f"{path.name}.part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{part}: is being written by another process; wait") from error
            if not part.exists() or not os.path.samestat(part.stat(), os.fstat(file.fileno())):
                # Ended between opening and locking: what is open here is the finished file.
                raise InputError(f"{part}: another process has just ended it; try again")
            _Transfer(archive, file, part, note, expected is not None).run()
            file.flush()
            os.fsync(file.fileno())
            if expected is not None and (found := sha256_of(part)) != expected:
                _remove(part, note)
                raise InputError(
                    f"{archive.url}: {path} has sha256 {found}, expected {expected}; removed, try "
                    "again or tell whoever publishes it"
                )
            os.replace(part, path)
            note.unlink(missing_ok=True)
    except OSError as error:
        raise _disk_error(part, error) from error
    return path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The hash of a file, in hexadecimal.

    Raises:
      InputError: it cannot be read.
    """
    path = Path(path)
    try:
        with _bar(path, path.stat().st_size, "checking") as bar:
            return file_sha256(path, bar.update)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _checked_hash(archive: Archive, sha256: str | None) -> str | None:
    expected = archive.sha256 if sha256 is None else sha256.strip().lower()
    if expected is not None and not re.fullmatch("[0-9a-f]{64}", expected):
        raise InputError(
            f"{archive.file_name}: {expected[:80]!r} is no sha256; expected 64 hexadecimal digits"
        )
    return expected


def _check_present(archive: Archive, path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise InputError(f"{path}: is no regular file; remove it to download {archive.url} there")
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise InputError(
            f"{path}: has {size} bytes, expected {archive.size} of {archive.url}; remove it to "
            "download it again"
        )
    if expected is not None and (found := sha256_of(path)) != expected:
        raise InputError(
            f"{path}: has sha256 {found}, expected {expected} of {archive.url}; remove it to "
            "download it again"
        )


def _remove(part: Path, note: Path) -> None:
    note.unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _disk_error(part: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"{part}: no space left; make room and try again, it will go on from here"
        )
    return InputError(f"{part}: cannot be written: {error.strerror or error}")


def _bar(path: Path, total: int | None, doing: str, initial: int = 0) -> Any:
    bar = progress(total or 0, f"{doing} {path.name}", "B", initial=initial, delay=0.5)
    bar.unit_scale = True
    return bar


class _Interrupted(Exception):
    """The connection broke or the server is busy: worth another attempt."""


class _Transfer:
    """Brings the `.part` file to its full length.

    Args:
      archive: what to download.
      file: the `.part` file, open for appending.
      part: its path.
      note: path of what is known of the server's file, to tell on resuming whether it changed.
      hash_known: whether the whole file is checked against a hash afterwards.
    """

    def __init__(
        self, archive: Archive, file: BinaryIO, part: Path, note: Path, hash_known: bool
    ) -> None:
        self._archive = archive
        self._file = file
        self._part = part
        self._note = note
        self._hash_known = hash_known
        self._total = archive.size
        self._validators: dict[str, str] = {}

    def run(self) -> None:
        self._restore()
        best, failed = self._file.tell(), 0
        with requests.Session() as session:
            session.max_redirects = _MAX_REDIRECTS
            while self._file.tell() != self._total or not self._total:
                try:
                    self._attempt(session)
                    break
                except _Interrupted as error:
                    self._file.flush()
                    failed = 0 if self._file.tell() > best else failed + 1
                    best = max(best, self._file.tell())
                    if failed >= _ATTEMPTS:
                        raise InputError(
                            f"{self._archive.url}: {error}, {failed} times; try again later, "
                            f"{self._part} has {self._file.tell()} bytes to go on from"
                        ) from error
                    time.sleep(_BACKOFF * 2 ** max(0, failed - 1))

    def _attempt(self, session: requests.Session) -> None:
        """One request; returns once the file is whole."""
        offset = self._file.tell()
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            validator = self._validators.get("ETag", self._validators.get("Last-Modified"))
            if validator:
                headers["If-Range"] = validator
        try:
            response = session.get(
                self._archive.url, headers=headers, stream=True, timeout=_TIMEOUT
            )
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            raise self._refused(one_line(error)) from error
        except requests.TooManyRedirects as error:
            raise self._refused(f"redirects more than {_MAX_REDIRECTS} times") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Interrupted(one_line(error)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise self._refused(one_line(error)) from error
        with response:
            chain = [*(r.url for r in response.history), response.url]
            if any(a.startswith("https:") and b.startswith("http:") for a, b in pairwise(chain)):
                raise self._refused("redirects from https to http")
            self._accept(response, offset)
            self._receive(response)

    def _accept(self, response: requests.Response, offset: int) -> None:
        """Puts the file where the response goes on; raises unless there is something to read."""
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            raise _Interrupted(f"the server answers {status} {response.reason}")
        if status == 416 and offset:  # there is no more: the server's file is another one
            self._start_over()
            raise _Interrupted("the server has nothing to go on with")
        if status not in (200, 206):
            raise self._refused(f"the server answers {status} {response.reason}")
        validators = _validators(response)
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            known = {k: v for k, v in validators.items() if k in self._validators}
            total = None if match is None or match[3] == "*" else int(match[3])
            if (
                match is None
                or int(match[1]) != offset
                or any(self._validators[k] != v for k, v in known.items())
                or (total is not None and self._total not in (None, total))
            ):
                self._start_over()
                raise _Interrupted("the server goes on with another file or place")
        else:
            self._start_over()
            length = response.headers.get("Content-Length", "")
            total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if total is not None:
            if self._archive.size not in (None, total):
                raise self._refused(
                    f"has {total} bytes, expected {self._archive.size}: not the file that this "
                    "program knows"
                )
            if total > _MAX_BYTES:
                raise self._refused(f"has {total} bytes, over the limit of {_MAX_BYTES}")
            self._total = total
        missing = (self._total or 0) - self._file.tell()
        free = shutil.disk_usage(self._part.parent).free
        if missing > free:
            raise InputError(
                f"{self._part}: takes {missing} bytes more of {self._archive.url}, and {free} are "
                "free; make room"
            )
        self._validators |= validators
        write_json(
            self._note,
            {"url": self._archive.url, "size": self._total, "validators": self._validators},
        )

    def _receive(self, response: requests.Response) -> None:
        limit = _MAX_BYTES if self._total is None else self._total
        done = self._file.tell()
        with _bar(Path(self._archive.file_name), self._total, "downloading", done) as bar:
            while True:
                try:
                    # As it is on the server: some servers declare a .tgz a compressed .tar.
                    data = response.raw.read(_CHUNK, decode_content=False)
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise _Interrupted(one_line(error)) from error
                if not data:
                    break
                done += len(data)
                if done > limit:
                    self._start_over()
                    raise self._refused(f"sends more than {limit} bytes")
                self._file.write(data)
                bar.update(len(data))
        if self._total is not None and done < self._total:
            raise _Interrupted(f"the connection ended after {done} of {self._total} bytes")

    def _restore(self) -> None:
        """What an earlier call left; nothing, where it is not known to be of the same file."""
        earlier: dict[str, Any] = {}
        try:
            if self._note.exists():
                earlier = read_json(self._note)
        except InputError:  # cut short, or not ours
            pass
        validators, size = earlier.get("validators"), earlier.get("size")
        if isinstance(validators, dict) and earlier.get("url") == self._archive.url:
            self._validators = {
                name: validators[name]
                for name in ("ETag", "Last-Modified")
                if isinstance(validators.get(name), str)
            }
            if self._total is None and isinstance(size, int) and size > 0:
                self._total = size
        offset = self._file.tell()
        whole = offset == self._total
        if not (self._validators or self._hash_known or whole) or (
            self._total is not None and offset > self._total
        ):
            self._start_over()

    def _start_over(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._validators = {}
        self._total = self._archive.size

    def _refused(self, why: str) -> InputError:
        """Nothing is kept but what a later call could go on from."""
        if not self._file.tell():
            _remove(self._part, self._note)
        hint = f"download it by hand to {self._part.with_suffix('')}"
        return InputError(f"{self._archive.url}: {why}; try again later or {hint}")


def _validators(response: requests.Response) -> dict[str, str]:
    """What tells one version of the server's file from another, good enough to go on from."""
    found = {name: response.headers.get(name, "") for name in ("ETag", "Last-Modified")}
    if found["ETag"].startswith("W/"):  # the same in meaning, not in bytes
        del found["ETag"]
    return {name: value for name, value in found.items() if value}
