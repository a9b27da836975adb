"""Temporary folders that go with their process, whatever ends it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "dedn-bucket-"
# Its process holds a lock on it; a folder without one is kept.
_HELD = ".held-by-its-process"
_kept: set[Path] = set()


def temporary_folder() -> Path:
    """A new folder, which is removed at the end of the process.

    Removes what processes of this user left that were killed: a training that is killed over and
    over would fill the disk with copies of its checkpoints.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_abandoned(old)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    new = folder / f"{_HELD}.new"
    handle = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)  # closed when the process has ended
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(folder / _HELD)  # nobody finds it before it is locked
    atexit.register(_remove, folder)
    return folder


def keep(folder: Path) -> None:
    """Lets a folder of `temporary_folder` stay."""
    (folder / _HELD).unlink(missing_ok=True)
    _kept.add(folder)


def _remove(folder: Path) -> None:
    if folder not in _kept:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    handle = os.open(folder / _HELD, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
        shutil.rmtree(folder)
    finally:
        os.close(handle)
