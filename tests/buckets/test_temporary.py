"""Temporary folders that go with their process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dedn_jax.buckets.temporary import keep, temporary_folder

_MAKES = (
    "import sys; from dedn_jax.buckets.temporary import *; print(temporary_folder(), flush=True)"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_goes_with_its_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MAKES], capture_output=True, text=True, check=True
    )
    assert not Path(done.stdout.strip()).exists()


def test_of_a_process_that_was_killed() -> None:
    """The next one removes it, but none that is in use, kept, or of something else."""
    others = temporary_folder(), temporary_folder()
    keep(others[1])
    other = others[0].with_name("dedn-bucket-list.txt")
    other.touch()
    with subprocess.Popen(
        [sys.executable, "-c", f"{_MAKES}; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        left = Path(process.stdout.readline().strip())
        (left / "checkpoint").touch()
        temporary_folder()
        assert (left / "checkpoint").exists()
        process.send_signal(signal.SIGKILL)
    temporary_folder()
    assert not left.exists()
    assert all(path.exists() for path in (*others, other))
