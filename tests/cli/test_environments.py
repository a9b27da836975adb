"""The command in environments that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.helpers.forks import Forked
from tests.helpers.tiny import ONE_NETWORK, tiny_overrides, write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent
BARE = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": os.environ["PATH"]}


def run(
    command: list[str],
    folder: Path,
    limits: Callable[[], None] | None = None,
    python: Sequence[str] = ("-m", "dedn_jax"),
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    kept = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    return subprocess.run(
        [sys.executable, *python, *command],
        cwd=folder,
        env=BARE | kept | environment,
        preexec_fn=limits,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"),
        **ONE_NETWORK,
        selection__protocol="last",
        train__epochs=5,  # the program of longer trainings, which others compile too
    )
    return ["--config=base", f"--workdir={tmp_path}/run", *flags]


@pytest.mark.slow
def test_a_terminal_of_ascii_alone_in_a_notebook(training: list[str], tmp_path: Path) -> None:
    """Its terminals inherit the backend, and another environment has not got the package."""
    done = run(
        ["sweep", "--seeds=2", *training],
        tmp_path,
        PYTHONIOENCODING="ascii:strict",
        LC_ALL="C",
        PYTHONUTF8="0",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
    )
    assert done.returncode == 0, done.stderr
    assert b"mean +- half of the 95% interval" in done.stdout
    assert (tmp_path / "run" / "sweep.png").exists()


# As it is for a user id without an entry in the password database.
NO_ENTRY = """
import pwd, runpy
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
runpy.run_module("dedn_jax", run_name="__main__")
"""


def test_a_user_without_name_and_home(training: list[str], tmp_path: Path) -> None:
    done = run(["train", *training], tmp_path, python=("-c", NO_ENTRY))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()
    assert b"no home directory" in done.stderr or "JAX_COMPILATION_CACHE_DIR" in os.environ
    done = run(["demo", "--workdir=~/run"], tmp_path, python=("-c", NO_ENTRY))
    assert done.returncode == 2
    assert done.stderr.startswith(b"dedn: ~/run: ") and done.stderr.count(b"\n") == 1


WITH_FEW_FILES = """
import resource
from dedn_jax.cli.main import console
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
console()
"""


@pytest.mark.slow
def test_few_open_files(training: list[str], tmp_path: Path) -> None:
    process = Forked("-c", WITH_FEW_FILES, "train", *training, HOME=str(tmp_path))
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 2), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_PLATFORMS", "rubbish"), ("JAX_ENABLE_X64", "rubbish")],
)
def test_variables_that_jax_cannot_read(
    name: str, value: str, training: list[str], tmp_path: Path
) -> None:
    done = run(["train", *training], tmp_path, **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(b"dedn: JAX: ") and done.stderr.count(b"\n") == 1
    assert name.encode() in done.stderr


def test_closed_streams(training: list[str], tmp_path: Path) -> None:
    """As daemons start programs: no file of the run is taken for one of them."""

    def close() -> None:
        for number in range(3):
            os.close(number)

    done = run(["train", *training], tmp_path, close)
    assert done.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()
    assert not done.stdout and not done.stderr
