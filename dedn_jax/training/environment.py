"""What a run was computed with: a record for every start, in its work directory."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import read_json, write_json
from dedn_jax.installation import PACKAGES
from dedn_jax.version import __version__

STARTS = "starts"
_FILE = "environment.json"
# Settings of JAX and XLA, which change speed and may change the last digits.
_SETTINGS = ("JAX_", "XLA_", "LIBTPU_")
_ROOT = Path(__file__).parents[2]


def record_start(folder: Path) -> float:
    """Writes `starts/N/environment.json` for this start of a run, the N-th.

    A record that cannot be written stops no run: that is said, and it goes on.

    Args:
      folder: the run's.

    Returns:
      When the run was started first, in seconds since 1970.
    """
    now = time.time()
    starts = folder / STARTS
    try:
        numbers = started(folder)
        number = max(numbers, default=0) + 1
        own = starts / str(number)
        own.mkdir(parents=True, exist_ok=True)
        write_json(own / _FILE, {"start": number, "time": now, **environment(now)})
        return _first_start(starts, numbers, now)
    except (InputError, OSError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        text = f"dedn: {starts}: this start is not recorded ({reason}); the run goes on"
        tqdm.write(text, file=sys.stderr)
        return now


def started(folder: Path) -> list[int]:
    """The numbers of a run's starts."""
    try:
        names = [path.name for path in (folder / STARTS).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdecimal() and len(name) < 10)


def _first_start(starts: Path, numbers: list[int], now: float) -> float:
    for number in numbers:
        try:
            found = read_json(starts / str(number) / _FILE).get("time")
        except (InputError, OSError):
            continue
        if isinstance(found, float) and 0 < found <= now:
            return found
    return now


def environment(now: float) -> dict[str, Any]:
    """Versions, commit, devices, processes, command line."""
    devices = jax.devices()
    found: dict[str, Any] = {
        "date": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions(),
        "host": platform.node(),
        "system": platform.platform(),
        "processes": jax.process_count(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "of_a_process": jax.local_device_count(),
        },
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)},
    }
    return found | ({"commit": commit} if (commit := _commit()) else {})


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that compute."""
    found = {"dedn-jax": __version__, "Python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def _commit() -> str | None:
    """Of the checkout that this package is in, with `+` where it was changed; None elsewhere."""
    if not (_ROOT / ".git").exists() or not shutil.which("git"):
        return None

    def git(*arguments: str) -> str:
        # Without, `status` writes the index: killed in that, it leaves a lock on the checkout.
        command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "dedn_jax", "configs")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
