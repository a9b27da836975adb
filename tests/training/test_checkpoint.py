"""Checkpoints that cannot be written: one line, which says why and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.training.checkpoint import save_params

# As TensorStore says it: files first, details last.
WORDS = (
    'RESOURCE_EXHAUSTED: Error opening "zarr" driver: Error writing "a/.zarray" in OCDBT database: '
    'Failed to open: "/run/manifest.ocdbt.__lock": Too many open files'
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "(OSError: No space left on device); make room, and",
        ),
        (
            ValueError(f"{WORDS} [tensorstore_spec='{{}}'] [source locations='a.cc:1']"),
            "(ValueError: Too many open files); allow more open files (ulimit -n), and",
        ),
        (
            ValueError(f"{WORDS} [os_error=24]"),
            "(ValueError: Too many open files); allow more open files (ulimit -n), and",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS)),
            "(OSError: Read-only file system); have its file system mounted for writing too, and",
        ),
        (ValueError("odd"), "(ValueError: odd); see to its permissions and free space, and"),
    ],
)
def test_why_and_what_to_do(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(InputError) as caught:
        save_params(tmp_path / "selected", nnx.State({"a": nnx.Param(jnp.ones(3))}))
    assert str(caught.value) == (
        f"{tmp_path}/selected: cannot be written {said} give the same command: it resumes from "
        "the last complete checkpoint"
    )
