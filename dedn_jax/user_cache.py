"""The user's own cache folder: what may be trusted because nobody else can have put it there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def user_cache_dir() -> Path | None:
    """`dedn-jax` in `XDG_CACHE_HOME`, else in `~/.cache`; it need not exist.

    Returns:
      The folder; None for a user without a home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # Relative paths are ignored, as the XDG specification asks.
        root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    except RuntimeError:  # no HOME, and no entry in the password database
        return None
    return root / "dedn-jax"


def private_folder(path: Path) -> str:
    """Makes `path` a folder of mode 0700, or finds it so.

    Returns:
      Why nobody may rely on what is in it; "" where this user alone can have written it.
    """
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        # First the folder around it, in which others could replace it.
        for folder in (path.parent, path):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode):
                return f"{folder} is not a folder"
            if found.st_uid != os.geteuid():
                return f"{folder} belongs to another user"
            if folder == path and found.st_mode & _OTHERS_WRITE:
                return f"others can write to {folder}"
            folder.chmod(0o700 if folder == path else found.st_mode & 0o777 & ~_OTHERS_WRITE)
        if not os.access(path, os.W_OK | os.X_OK):
            return f"{path} is not writable"
    except OSError as error:
        return f"{error.filename or path}: {error.strerror or error}"
    return ""
