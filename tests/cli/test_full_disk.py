"""A disk that is full while models train: one line, at once, and the same command goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import tiny_overrides, write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent


def _run(
    command: list[str], cache: Path, most: int | None = None
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, of which no file may become larger than `most` bytes."""

    def limit() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return subprocess.run(
        [sys.executable, "-m", "dedn_jax", *command],
        cwd=ROOT,
        # No program has been compiled before, and none can be kept.
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )


@pytest.mark.parametrize("job", ["train", "sweep"])
def test_it_ends_with_one_line_and_goes_on(job: str, tmp_path: Path) -> None:
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"),
        selection__protocol="last",
        train__log_every=1,
        train__epochs=15,
    )
    run = tmp_path / "run"
    command = [job, "--config=base", f"--workdir={run}", *flags]
    command += ["--seeds=2"] if job == "sweep" else []
    stopped = _run(command, tmp_path / "cache", most=8000)
    printed = stopped.stderr
    assert stopped.returncode == 2, stopped.stderr
    said = [line for line in printed.splitlines() if line.startswith("dedn: ")]
    folder = run if job == "train" else run / "points" / "0"
    assert "Warning" not in printed
    assert "Traceback" not in printed and "asyncio" not in printed
    assert said[-1].startswith(f"dedn: {folder}/final/checkpoints: cannot be written (")
    assert "allow larger files (ulimit -f), and give the same command" in said[-1]
    # Logs do not stop it before: a line of theirs, if they were in the way at all.
    assert len(said) <= 2
    assert all("training goes on" in line for line in said[:-1])
    going_on = _run(command, tmp_path / "cache")
    assert going_on.returncode == 0, going_on.stderr
    steps = [r["step"] for r in read_lines(folder / "metrics.jsonl") if "evaluated_on" not in r]
    assert steps == list(range(1, max(steps) + 1))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_printed(stream: str, tmp_path: Path) -> None:
    """Progress goes nowhere, and the run is finished; a result that is not seen is said."""
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"), selection__protocol="last", train__epochs=2
    )
    command = ["train", "--config=base", f"--workdir={tmp_path}/run", *flags]
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run(
            [sys.executable, "-m", "dedn_jax", *command],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            text=True,
            timeout=300,
            **streams,
        )
    assert (tmp_path / "run" / "result.json").exists()
    if stream == "stderr":
        assert done.returncode == 0
        assert "Test sets (last)" in done.stdout
    else:
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(
            "No space left on device; make room, and give the command again"
        )
