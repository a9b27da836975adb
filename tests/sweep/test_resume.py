"""Interrupted sweeps go on, and end bit for bit as undisturbed ones."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from tests.helpers.disks import unmounted_at
from tests.helpers.forks import Forked
from tests.helpers.shared import made_once
from tests.helpers.tiny import ONE_NETWORK, light_config, tiny_overrides
from tests.sweep.common import FIELDS, SEEDS, interrupted_sweep, read

TWO = ["selection.protocol=last,validation"]


@pytest.fixture(scope="module")
def config(data: Path) -> ConfigDict:
    return light_config(data, **FIELDS)


@pytest.fixture(scope="module")
def swept(config: ConfigDict, shared: Path) -> Path:
    made_once(shared / "undisturbed", lambda folder: run_sweep(config, folder, SEEDS, TWO))
    return shared / "undisturbed"


def assert_same(path: Path, swept: Path, first: int, count: int) -> None:
    """The points are `count` of those of `swept`."""
    found, expected = read(path), read(swept)
    assert found == {**expected, "points": expected["points"][first : first + count]}
    for number in range(count):
        mine = path / "points" / str(number) / "metrics.jsonl"
        theirs = swept / "points" / str(first + number) / "metrics.jsonl"
        assert read_lines(mine) == read_lines(theirs)


def test_interrupted_and_resumed(swept: Path, config: ConfigDict, runs: Path) -> None:
    """However often it is stopped; finished points are kept."""
    path, grid = runs / "interrupted", TWO
    # There is a look before a point, after each step, and between the batches of an evaluation: 6
    # of the test images, 3 of those of validation, which come every third step.
    for calls, message in (
        (1 + 16, "step 17 of 48 of phase final of point 1/2"),
        (1 + 31 + 2, "stopped in the evaluation on the test sets"),
        (1 + 5, "before point 2 of 2"),
        (1 + 4 * (3 + 2), "step 13 of 30 of phase validation of point 2/2"),
        (1 + 2 + 1, "step 15 of 30 of phase validation of point 2/2"),  # while it is evaluated
        (1 + 1, "step 15 of 30 of phase validation of point 2/2"),  # once more
    ):
        interrupted_sweep(calls, message, config, path, grid)
    assert not (path / "result.json").exists()
    first = path / "points" / "0" / "result.json"
    written = first.stat().st_mtime_ns
    run_sweep(config, path, SEEDS, grid)
    assert first.stat().st_mtime_ns == written
    assert_same(path, swept, 0, 2)


def test_unmounted_during_a_checkpoint(
    swept: Path, config: ConfigDict, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint comes to the folder below: the sweep ends, and goes on from the one before."""
    path, grid = runs / "unmounted", ["selection.protocol=last"]
    with unmounted_at(20, path, monkeypatch):
        run_sweep(config, path, SEEDS, grid)
    assert (path / "points" / "0" / "final" / "checkpoints" / "10").is_dir()
    run_sweep(config, path, SEEDS, grid)
    assert_same(path, swept, 0, 1)


@pytest.mark.slow
def test_a_signal_to_the_command(swept: Path, config: ConfigDict, data: Path, runs: Path) -> None:
    path, grid = runs / "terminated", ["selection.protocol=validation"]
    command = ["-m", "dedn_jax", "sweep", "--config=base", f"--workdir={path}"]
    command += [f"--seeds={SEEDS}", "--grid", *grid, *tiny_overrides(data, **ONE_NETWORK, **FIELDS)]
    process = Forked(*command)
    began = time.monotonic()
    lines = path / "points" / "0" / "metrics.jsonl"
    while not (lines.exists() and lines.stat().st_size) and process.poll() is None:
        assert time.monotonic() - began < 120
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert stderr.splitlines()[-1].startswith("dedn: stopped ")
    assert stderr.rstrip().endswith("give the same command to resume")
    assert not (path / "result.json").exists()
    run_sweep(config, path, SEEDS, grid)
    assert_same(path, swept, 1, 1)
