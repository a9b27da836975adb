"""What is made once for all workers of pytest-xdist together."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """No two workers make the same file or folder."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(path: Path, make: Callable[[Path], Any]) -> Any:
    """What `make(path)` has returned, in JSON, to the worker that came first."""
    returned = path.with_suffix(".returned")
    with one_at_a_time(path):
        if not returned.exists():
            value = json.dumps(make(path))
            returned.write_text(value)
        return json.loads(returned.read_text())


def copied(path: Path, make: Callable[[Path], Any], to: Path) -> Any:
    """As `made_once`; what was made is copied to a folder that may be changed."""
    value = made_once(path, make)
    shutil.copytree(path, to)
    return value
