"""Where the demo pictures are kept."""

from __future__ import annotations

import os
from pathlib import Path

from dedn_jax.errors import InputError


def demo_cache_dir(path: str = "") -> Path | None:
    """Where the demo pictures are kept, made if missing.

    Args:
      path: `config.data.path`; "" for `dedn-jax` in the user's cache folder (`XDG_CACHE_HOME`,
        else `~/.cache`).

    Returns:
      The folder; None where `path` is "" and the user's cache folder cannot be written to: the
      pictures are then drawn every time.

    Raises:
      InputError: `path` is no folder that can be written to.
    """
    if path:
        folder = Path(path).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification: a relative path there is to be ignored.
        root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
        folder = root / "dedn-jax"
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
        f"{folder}: cannot keep the demo pictures there: {reason}; set --config.data.path to a "
        "folder that can be written to"
    )
