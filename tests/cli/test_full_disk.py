"""A disk that is full while models train: one line, at once, and the same command goes on."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dedn_jax.training.logs import read_lines
from tests.helpers.disks import no_file_over
from tests.helpers.forks import Forked
from tests.helpers.tiny import ONE_NETWORK, tiny_overrides, write_tiny

# Programs are kept in the user's folder, not with those of all tests: one cut short stays so.
OWN_CACHE = """
import jax
from dedn_jax.cli.main import console
jax.config.update("jax_compilation_cache_dir", None)
"""
LIMITED = """
from tests.helpers.disks import no_file_over
with no_file_over(8000):
    console()
"""
INTO_A_FULL_DISK = """
import os, sys
from dedn_jax.cli.main import console
os.dup2(os.open("/dev/full", os.O_WRONLY), int(sys.argv.pop(1)))
console()
"""


FULL = "dedn: standard output: No space left on device; make room, and give the command again"


def _run(arguments: list[str], **environment: str) -> tuple[int, str, str]:
    """Status, output and errors of a process of its own."""
    process = Forked(*arguments, **environment)
    output, errors = process.communicate(timeout=300)
    return process.wait(), output, errors


def test_no_module_stays_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of full disks leave what others import as it was."""
    (tmp_path / "large.py").write_text(f"TEXT = {'a' * 100!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with no_file_over(50):
        importlib.import_module("large")
    assert [path.name for path in tmp_path.iterdir()] == ["large.py"]


@pytest.mark.parametrize("stream", [1, 2], ids=["stdout", "stderr"])
def test_what_is_printed(stream: int, tmp_path: Path) -> None:
    """Progress goes nowhere, and the run is finished; a result that is not seen is said."""
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"),
        **ONE_NETWORK,
        selection__protocol="last",
        train__epochs=5,  # the program of longer trainings, which others compile too
    )
    command = ["train", "--config=base", f"--workdir={tmp_path}/run", *flags]
    status, output, errors = _run(["-c", INTO_A_FULL_DISK, str(stream), *command])
    assert (tmp_path / "run" / "result.json").exists()
    if stream == 2:
        assert status == 0
        assert "Test sets (last)" in output
    else:
        assert status == 2
        assert errors.splitlines()[-1] == FULL


@pytest.mark.parametrize("buffered", [True, False])
def test_a_text_longer_than_the_buffer(buffered: bool) -> None:
    """What is written before the job has ended is of standard output as well."""
    unbuffered = "" if buffered else "import sys; sys.stdout.reconfigure(write_through=True)"
    code = unbuffered + INTO_A_FULL_DISK
    status, output, errors = _run(["-c", code, "1", "train", "--help-config"])
    assert (status, output, errors) == (2, "", f"{FULL}\n")


@pytest.mark.parametrize("job", ["train", pytest.param("sweep", marks=pytest.mark.slow)])
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
    # No program has been compiled before, and none can be kept in full.
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    status, _, printed = _run(["-c", OWN_CACHE + LIMITED, *command], **cache)
    assert status == 2, printed
    said = [line for line in printed.splitlines() if line.startswith("dedn: ")]
    folder = run if job == "train" else run / "points" / "0"
    assert "Warning" not in printed
    assert "Traceback" not in printed and "asyncio" not in printed
    assert said[-1].startswith(f"dedn: {folder}/final/checkpoints: cannot be written (")
    assert "allow larger files (ulimit -f), and give the same command" in said[-1]
    # Logs do not stop it before: a line of theirs, if they were in the way at all.
    assert len(said) <= 2
    assert all("training goes on" in line for line in said[:-1])
    assert not (folder / "result.json").exists()
    status, _, printed = _run(["-c", OWN_CACHE + "console()", *command], **cache)
    assert status == 0, printed
    steps = [r["step"] for r in read_lines(folder / "metrics.jsonl") if "evaluated_on" not in r]
    assert steps == list(range(1, max(steps) + 1))
