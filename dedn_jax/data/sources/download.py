"""Downloads a file: resumed where the connection broke, checked, there completely or not at all."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import urllib.parse
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3

from dedn_jax.data.sources.published_archives import Archive
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import file_sha256, hold_lock, read_json, write_json
from dedn_jax.paths import local_path
from dedn_jax.progress import progress

_MAX_BYTES = 2**35  # of an archive whose size is not known; the largest, AWA2's, has 13 GB
_CHUNK = 2**20
_ATTEMPTS = 5  # in a row that bring nothing new
_BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
_TIMEOUT = (15, 60)  # seconds to connect, and without a byte
_PATIENCE = 120.0  # seconds for the headers of an answer, and for each `_LEAST_BYTES` of its body
_LEAST_BYTES = 2**18  # AWA2's 13 GB would take 70 days
_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_VALIDATORS = ("ETag", "Last-Modified")


def download(
    archive: Archive, folder: str | os.PathLike[str], *, sha256: str | None = None
) -> Path:
    """Downloads an archive unless it is there.

    It grows as `<file_name>.part` and is renamed once it is complete and its hash is right. A call
    that was interrupted is resumed by the next, as long as the server's file is the same.

    Args:
      archive: what to download.
      folder: where to; created if missing.
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
    path = local_path(folder) / archive.file_name
    if os.path.lexists(path):
        _check_present(archive, path, expected)
        return path
    part = path.with_name(f"{path.name}.part")
    note = path.with_name(f"{path.name}.part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(part, wait=False) as file:
            _Transfer(archive, file, part, note, expected is not None).run()
            file.flush()
            os.fsync(file.fileno())
            if expected is not None and (found := sha256_of(part)) != expected:
                _remove(part, note)
                raise InputError(
                    f"{archive.url}: {path} has sha256 {found}, expected {expected}; removed, try "
                    "again or tell the publisher"
                )
            os.replace(part, path)
            note.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise InputError(
            f"{part}: another process is downloading it; wait for it to finish"
        ) from error
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written: {error.strerror or error}; try again to resume from here"
        ) from error
    return path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The hash of a file, in hexadecimal.

    Raises:
      InputError: it cannot be read.
    """
    path = local_path(path)
    try:
        with progress(path.stat().st_size, f"checking {path.name}", "B", delay=0.5) as bar:
            return file_sha256(path, bar.update)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _checked_hash(archive: Archive, sha256: str | None) -> str | None:
    expected = archive.sha256 if sha256 is None else sha256.strip().lower()
    if expected is not None and not re.fullmatch("[0-9a-f]{64}", expected):
        raise InputError(
            f"{archive.file_name}: {expected[:80]!r} is not a SHA-256; expected 64 hexadecimal "
            "digits"
        )
    return expected


def _check_present(archive: Archive, path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise InputError(f"{path}: not a regular file; remove it to download {archive.url} there")
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


class _Pace:
    """Whether bytes come too slowly for a download to have an end.

    Args:
      done: bytes that are there.
    """

    def __init__(self, done: int) -> None:
        self._done, self._since = done, time.monotonic()

    def too_slow(self, done: int) -> bool:
        """Whether the last `_PATIENCE` seconds brought too little; `done` bytes are there now."""
        now = time.monotonic()
        if now - self._since < _PATIENCE:
            return False
        slow = done - self._done < _LEAST_BYTES
        self._done, self._since = done, now
        return slow


def _first_of(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """The answer to one request, its body not read.

    Raises:
      requests.RequestException, ValueError: there is none.
      requests.Timeout: its headers are not complete after `_PATIENCE` seconds; the time limits of
        a socket are those of a single byte.
    """
    found: list[requests.Response | Exception] = []

    def ask() -> None:
        try:
            # Not `session.get`, which reads the body of a redirect even where it follows none.
            request = session.prepare_request(requests.Request("GET", url, headers))
            settings = session.merge_environment_settings(url, {}, True, None, None)
            adapter = session.get_adapter(str(request.url))
            found.append(adapter.send(request, timeout=_TIMEOUT, **settings))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not found:
        raise requests.Timeout(f"no answer in {_PATIENCE} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


class _Interrupted(Exception):
    """The connection broke or the server is busy: worth another attempt."""


class _Transfer:
    """Brings the `.part` file to its full length.

    Not urllib3's `Retry`: it repeats requests, and what breaks here is the answer to one.

    Args:
      archive: what to download.
      file: the `.part` file, open for appending.
      part: its path.
      note: path of the server's validators, which tell on resuming whether its file has changed.
      hash_known: whether the complete file is checked against a hash afterwards.
    """

    def __init__(
        self, archive: Archive, file: BinaryIO, part: Path, note: Path, hash_known: bool
    ) -> None:
        self._archive, self._file, self._part, self._note = archive, file, part, note
        self._total = archive.size
        self._validators: dict[str, str] = {}
        self._restore(hash_known)

    def run(self) -> None:
        best, failed = self._file.tell(), 0
        with requests.Session() as session:
            while not self._total or self._file.tell() != self._total:
                try:
                    return self._attempt(session)
                except _Interrupted as error:
                    self._file.flush()
                    failed = 0 if self._file.tell() > best else failed + 1
                    best = max(best, self._file.tell())
                    if failed >= _ATTEMPTS:
                        raise InputError(
                            f"{self._archive.url}: {error}, {failed} times; try again later to "
                            f"resume from the {self._file.tell()} bytes in {self._part}"
                        ) from error
                    time.sleep(_BACKOFF * 2 ** max(0, failed - 1))

    def _attempt(self, session: requests.Session) -> None:
        """One request; returns once the file is complete."""
        offset = self._file.tell()
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._validators:
                headers["If-Range"] = next(iter(self._validators.values()))
        with self._answer(session, headers) as response:
            self._accept(response, offset)
            self._receive(response)

    def _answer(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        """The answer after all redirects, whose bodies are not read: they may have no end."""
        url = self._archive.url
        for _ in range(_REDIRECTS):
            try:
                response = _first_of(session, url, headers)
            except (requests.ConnectionError, requests.Timeout) as error:
                raise _Interrupted(one_line(error)) from error
            except (requests.RequestException, ValueError) as error:
                raise self._refused(one_line(error)) from error
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            there = urllib.parse.urljoin(url, target)
            if url.startswith("https:") and there.startswith("http:"):
                raise self._refused("redirects from https to http")
            url = there
        raise self._refused(f"redirects more than {_REDIRECTS} times")

    def _accept(self, response: requests.Response, offset: int) -> None:
        """Sets the file to where the response continues; raises unless there is more to read."""
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            raise _Interrupted(f"the server answers {status} {response.reason}")
        if status == 416 and offset:
            self._start_over()
            raise _Interrupted("the server's file is shorter than what was downloaded")
        if status not in (200, 206):
            raise self._refused(f"the server answers {status} {response.reason}")
        # A weak ETag (W/) stands for equal content, not for equal bytes.
        validators = {
            name: value
            for name in _VALIDATORS
            if (value := response.headers.get(name)) and not value.startswith("W/")
        }
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = None if match is None or match[2] == "*" else int(match[2])
            if (
                match is None
                or int(match[1]) != offset
                or total not in (None, self._total or total)
                or any(self._validators.get(k, v) != v for k, v in validators.items())
            ):
                self._start_over()
                raise _Interrupted("the server resumes with another file or at another place")
        else:
            self._start_over()
            length = response.headers.get("Content-Length", "")
            total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if total is not None:
            if self._archive.size not in (None, total):
                raise self._refused(
                    f"has {total} bytes, expected {self._archive.size}: another version"
                )
            if total > _MAX_BYTES:
                raise self._refused(f"has {total} bytes, over the limit of {_MAX_BYTES}")
            self._total = total
        missing = (self._total or 0) - self._file.tell()
        free = shutil.disk_usage(self._part.parent).free
        if missing > free:
            raise InputError(
                f"{self._part}: needs {missing} more bytes, {free} are free; make room"
            )
        self._validators |= validators
        write_json(
            self._note,
            {"url": self._archive.url, "size": self._total, "validators": self._validators},
        )

    def _receive(self, response: requests.Response) -> None:
        limit = self._total or _MAX_BYTES
        done = self._file.tell()
        name = f"downloading {self._archive.file_name}"
        pace = _Pace(done)
        with progress(self._total or 0, name, "B", initial=done, delay=0.5) as bar:
            while True:
                try:
                    # As it is on the server: some servers declare a .tgz a compressed .tar.
                    data = response.raw.read1(_CHUNK, decode_content=False)
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
                if pace.too_slow(done):
                    self._file.flush()
                    raise self._refused(
                        f"sends less than {_LEAST_BYTES} bytes in {_PATIENCE} s (what came is kept)"
                    )
        if done < (self._total or 0):
            raise _Interrupted(f"the connection ended after {done} of {self._total} bytes")

    def _restore(self, hash_known: bool) -> None:
        """Takes up what an earlier call left, unless it may be of another file."""
        try:
            earlier = read_json(self._note) if self._note.exists() else {}
        except InputError:  # truncated: the call was killed
            earlier = {}
        validators, size = earlier.get("validators"), earlier.get("size")
        if isinstance(validators, dict) and earlier.get("url") == self._archive.url:
            self._validators = {
                name: validators[name]
                for name in _VALIDATORS
                if isinstance(validators.get(name), str)
            }
            if self._total is None and isinstance(size, int) and size > 0:
                self._total = size
        offset = self._file.tell()
        same = self._validators or hash_known or offset == self._total
        if not same or offset > (self._total or offset):
            self._start_over()

    def _start_over(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._validators = {}
        self._total = self._archive.size

    def _refused(self, why: str) -> InputError:
        """Keeps only what a later call could resume from."""
        if not self._file.tell():
            _remove(self._part, self._note)
        hint = f"download it by hand to {self._part.with_suffix('')}"
        return InputError(f"{self._archive.url}: {why}; try again later or {hint}")
