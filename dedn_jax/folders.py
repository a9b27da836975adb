"""Folders that are replaced as a whole: the old one is there until the new one is."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What says that a system, or a file system, cannot exchange two names.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def replace_folder(written: Path, target: Path) -> None:
    """Gives the folder `written` the name `target`; what had that name before is removed.

    Linux exchanges the two in one step, so that a kill at any moment leaves either. Where that is
    not possible (NFS, other systems), the old folder is put aside for a moment, and
    `restore_replaced` puts it back after a kill.
    """
    if not os.path.lexists(target):
        written.rename(target)
        return
    if _exchange(written, target):
        shutil.rmtree(written)
        return
    aside = _aside(target)
    target.rename(aside)
    written.rename(target)
    shutil.rmtree(aside)


def restore_replaced(target: Path) -> None:
    """Undoes what a killed `replace_folder` began, or finishes what it had nearly done."""
    aside = _aside(target)
    if not aside.is_dir():
        return
    if os.path.lexists(target):
        shutil.rmtree(aside)
    else:
        aside.rename(target)


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two names of one file system; whether that was possible."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    arguments = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    if rename(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(b))
