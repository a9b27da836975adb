"""Files that appear complete or not at all, locks, hashes, JSON, and other people's text files."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dedn_jax.errors import InputError, one_line
from dedn_jax.json_values import MAX_BYTES, OBJECT, Kind, parse_json
from dedn_jax.owned import check_not_owned, real_path
from dedn_jax.paths import local_path

_CHUNK = 2**20
# What `flock` says where the file system has none: NFS without a lock service, Lustre mounted
# without its option `flock`, some FUSE mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class TooLargeError(InputError):
    """A file is larger than is read."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name only when it is complete.

    It is written to the same folder and renamed: a crash leaves the old file or the new one, a
    reader never sees half of one, and an error leaves nothing behind. The folder is created if
    missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        name.unlink(missing_ok=True)
        # A full disk is met by calls that know no name.
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)
        raise


def missing_folders(folder: Path) -> list[Path]:
    """The folders that have to be created for `folder`, innermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing


def lock_file(file: BinaryIO, path: Path, *, wait: bool) -> None:
    """Locks an open file; where the file system has no locks, says so and goes on without.

    Args:
      file: its handle; closing it releases the lock.
      path: its name, for the warning.
      wait: for another process that holds the lock.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(path.parent, error.strerror)


@functools.cache  # once for each folder
def _warn_of_no_locks(folder: Path, reason: str) -> None:
    print(
        f"{folder}: its file system has no locks ({reason}), so nothing keeps a second process "
        "out: let only one write there at a time",
        file=sys.stderr,
    )


def hold_lock(path: Path, *, wait: bool) -> BinaryIO:
    """Locks a file, which is created if missing; closing the returned file releases the lock.

    The holder may remove the file. Where the file system has no locks, as `lock_file`.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is false.
    """
    while True:
        with ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("ab"))
            lock_file(file, path, wait=wait)
            # A lock on a file that its last holder removed excludes nobody.
            if leads_to(path, file):
                stack.pop_all()
                return file


def leads_to(path: Path, file: BinaryIO) -> bool:
    """Whether a path is that of an open file, and not of another one or of none."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def locked_folder(folder: Path, lock: str, *, wait: bool = False) -> Iterator[BinaryIO]:
    """Creates a folder and holds a lock file in it, which is yielded.

    After an error within, the folder is removed again if it is empty and was created here.

    Raises:
      BlockingIOError: as `hold_lock`.
      InputError: as `check_contained`: what is written into the folder is to stay there.
    """
    check_contained(folder)
    path, made = folder / lock, missing_folders(folder)
    new = not path.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, wait=wait) as file:
            try:
                yield file
            except BaseException:
                if new:
                    path.unlink(missing_ok=True)
                raise
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, completely or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def file_sha256(
    path: Path, advance: Callable[[int], object] | None = None, max_bytes: int | None = None
) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
      path: the file.
      advance: called with the size in bytes of every piece read.
      max_bytes: a larger file is refused unread.

    Raises:
      InputError: as `open_regular`.
    """
    digest = hashlib.sha256()
    with open_regular(path, max_bytes) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            if advance is not None:
                advance(len(data))
    return digest.hexdigest()


def named_file_sha256(path: str | Path, setting: str, max_bytes: int = 2**34) -> str:
    """SHA-256, in hexadecimal, of the file that a setting names.

    Args:
      path: the file.
      setting: which names it, such as `config.backbone.weights`.
      max_bytes: larger files are refused unread.

    Raises:
      InputError: no such file, an unreadable or a larger one.
    """
    path = local_path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; set --{setting} to an existing file")
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(f"{path}: {size} bytes, expected at most {max_bytes} ({setting})")
        return file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_output(path: Path, suffix: str = ".json") -> None:
    """Checks the path of a result before the work for it is done.

    Raises:
      InputError: another suffix, not a regular file, a part of a run, sweep, store or prepared set,
        or the folder is not writable.
    """
    if path.suffix != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: not a regular file; choose another name")
    check_not_owned(path)
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: {parent} is not a writable folder; choose another")


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def open_regular(path: Path, max_bytes: int | None = None) -> BinaryIO:
    """Opens a file that somebody else may have put there.

    Args:
      path: the file; a pipe is not waited for, a device is not read.
      max_bytes: a larger file is refused.

    Raises:
      InputError: not a regular file; `TooLargeError`: a larger one.
      OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with ExitStack() as stack:
        stack.callback(os.close, handle)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: {_kind(found.st_mode)}, expected a regular file")
        if max_bytes is not None and found.st_size > max_bytes:
            raise TooLargeError(f"{path}: {found.st_size} bytes, expected at most {max_bytes}")
        stack.pop_all()
        return os.fdopen(handle, "rb")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a file that somebody else may have put there; raises as `open_regular`."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew
        raise TooLargeError(f"{path}: over {max_bytes} bytes, expected at most that many")
    return data


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe or socket" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "a device"


def check_contained(folder: Path) -> None:
    """Checks that all in a folder is in it: what is read or written there stays there.

    Raises:
      InputError: a link that leads out of the folder or round in a circle, or a pipe, socket or
        device.
    """
    root = real_path(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                if not real_path(path).is_relative_to(root):
                    raise InputError(
                        f"{path}: a link out of {folder}; replace it by what it links to"
                    )
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise InputError(f"{path}: {_kind(mode)}, expected files and folders; remove it")


def read_text_lines(path: Path, max_bytes: int, advice: str) -> list[str]:
    """The lines of a text file that somebody else made.

    Args:
      path: the file.
      max_bytes: a larger file is not read.
      advice: what to do, at the end of a message.

    Raises:
      InputError: no regular file, too large, not readable, or not UTF-8.
    """
    try:
        return read_regular(path, max_bytes).decode().splitlines()
    except InputError as error:
        raise InputError(f"{error}; {advice}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {advice}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; {advice}") from error


def read_json(path: Path, kind: Kind = OBJECT, advice: str = "restore or remove it") -> dict:
    """Reads a JSON object.

    Args:
      path: the file.
      kind: what is relied on in it.
      advice: what to do, at the end of a message.

    Raises:
      InputError: not a regular file, too large, not JSON, nested too deep, or of another kind.
    """
    try:
        value = parse_json(read_regular(path, MAX_BYTES))
    except InputError as error:
        raise InputError(f"{error}; {advice}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {advice}") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({one_line(error)}); {advice}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    try:
        kind.check(value)
    except ValueError as error:
        raise InputError(f"{path}: {error}; {advice}") from error
    return value
