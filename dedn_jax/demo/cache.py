"""The folder that caches the demo pictures."""

from __future__ import annotations

import os
from pathlib import Path

from dedn_jax.errors import InputError
from dedn_jax.paths import local_path
from dedn_jax.user_cache import user_cache_dir


def demo_cache_dir(path: str = "") -> Path | None:
    """The folder that caches the demo pictures, created if missing.

    Args:
      path: `config.data.path`; "" for `dedn-jax` in the user's cache folder (`XDG_CACHE_HOME`,
        else `~/.cache`).

    Returns:
      The folder; None if `path` is "" and the user's cache folder is not writable: the pictures are
      then drawn every time.

    Raises:
      InputError: `path` is not a writable folder.
    """
    if path:
        folder = local_path(path)
    else:
        own = user_cache_dir()
        if own is None:
            return None
        folder = own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        reason = "not writable"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if writable:
        return folder
    if not path:
        return None
    raise InputError(
        f"{folder}: cannot hold the demo pictures: {reason}; set --config.data.path to a "
        "writable folder"
    )
