"""File systems that are full, or go away while a run is written to them."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import pytest

from dedn_jax.errors import InputError


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Writing more than this to a file fails, as it does on a full disk.

    Compiled modules are not written meanwhile: Python 3.11 keeps one that was cut short, and
    nothing could import it any more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = written


@contextmanager
def unmounted_at(step: int, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What trains within finds an empty folder just as the first checkpoint of a step is written.

    It has to end for that reason. All that was there before comes back.
    """
    away, save = workdir.parent / f"{workdir.name}-away", ocp.CheckpointManager.save

    def save_elsewhere(manager: ocp.CheckpointManager, at: int, **rest: Any) -> Any:
        if at == step and not away.exists():
            manager.wait_until_finished()
            workdir.rename(away)
            workdir.mkdir()
        return save(manager, at, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "save", save_elsewhere)
        with pytest.raises(InputError, match=f"{workdir.name}: not there any more: .* unmounted"):
            yield
    shutil.rmtree(workdir)
    away.rename(workdir)
