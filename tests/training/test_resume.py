"""A run killed again and again ends, bit for bit, where an undisturbed one does.

`DEDN_KILLS` says how many times (3); kills fall on start-up, training and saving in turn, by
SIGKILL and SIGTERM alternately, at moments drawn by `DEDN_KILL_SEED` (0).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.files import read_json
from dedn_jax.training.logs import read_lines
from tests.helpers.forks import Forked
from tests.helpers.tiny import arrays, tiny_overrides, write_tiny

KILLS = int(os.environ.get("DEDN_KILLS", "3"))
SEED = int(os.environ.get("DEDN_KILL_SEED", "0"))
MOMENTS = ("training", "saving", "start-up")
TIMEOUT = 300.0


def launch(data: Path, workdir: Path) -> Forked:
    flags = tiny_overrides(
        data,
        train__epochs=80,  # 200 steps of validation, and up to 320 of the final phase
        train__evaluate_every=25,
        train__log_every=5,
        train__checkpoint_every=25,
    )
    return Forked("-m", "dedn_jax", "train", "--config=base", f"--workdir={workdir}", *flags)


def changed_at(path: Path) -> int:
    """When a file was last written, 0 while it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def saving(workdir: Path) -> set[str]:
    """Names of what Orbax is writing, or has left half-written."""
    return {str(p) for p in workdir.glob("*/*/*orbax-checkpoint-tmp*")} | {
        str(p) for p in workdir.glob("*/*orbax-checkpoint-tmp*")
    }


def written(workdir: Path) -> int:
    """Of metrics, as far as the run has come."""
    try:
        return (workdir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def undisturbed(data: Path, workdir: Path) -> float:
    """Seconds until it trains."""
    begun = time.monotonic()
    process = launch(data, workdir)
    first = None
    while process.poll() is None:
        if first is None and changed_at(workdir / "metrics.jsonl"):
            first = time.monotonic()
        assert time.monotonic() - begun < TIMEOUT
        time.sleep(0.005)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert first is not None
    return first - begun


def disturb(
    data: Path, workdir: Path, moment: str, number: int, when: float
) -> tuple[int, str, bool]:
    """Starts the run and sends it signal `number`; exit status, stderr, whether it trained.

    `when` is in seconds for a moment in start-up, which ends where training begins, and in lines of
    metrics for one in training: a machine may be slower or faster than it was before.
    """
    metrics = workdir / "metrics.jsonl"
    metrics_before, saving_before = changed_at(metrics), saving(workdir)
    process = launch(data, workdir)
    begun = time.monotonic()

    def wait(ready: object) -> None:
        while process.poll() is None and not ready():  # type: ignore[operator]
            assert time.monotonic() - begun < TIMEOUT
            time.sleep(0.001)

    def trains() -> bool:
        return changed_at(metrics) != metrics_before

    if moment == "start-up":
        wait(lambda: trains() or time.monotonic() - begun > when)
    else:
        wait(trains)
    if moment == "saving":
        wait(lambda: saving(workdir) - saving_before)
    if moment == "training":
        wait(lambda: written(workdir) >= when)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT)
    return process.returncode, stderr, changed_at(metrics) != metrics_before


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_the_same(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "tiny.hdf5")
    expected, killed = tmp_path / "undisturbed", tmp_path / "killed"
    start = undisturbed(data, expected)
    rng = random.Random(SEED)
    outcomes = []
    for kill in range(KILLS):
        moment = MOMENTS[kill % len(MOMENTS)]
        number = (signal.SIGKILL, signal.SIGTERM)[kill % 2]
        # Kills in training fall on its first half, the later ones further on.
        latest = start if moment == "start-up" else written(expected) / 2 * (kill + 1) / KILLS
        status, stderr, trained = disturb(data, killed, moment, number, rng.uniform(0, latest))
        outcomes.append((moment, number.name, status))
        if status == 0:  # told to stop in its last save, it has nothing left to stop
            assert kill and (moment, number) == ("saving", signal.SIGTERM), outcomes
            break
        if number == signal.SIGKILL:
            assert status == -signal.SIGKILL, stderr
        elif moment != "start-up" or status == 128 + signal.SIGTERM:
            assert trained
            assert status == 143, (status, stderr)
            assert stderr.splitlines()[-1].startswith("dedn: stopped ")
            assert stderr.rstrip().endswith("give the same command to resume")
        else:  # before there is anything to save, nothing holds the signal up
            assert status == -signal.SIGTERM, stderr
        if (killed / "final" / "result.json").exists():  # there is no training left to kill
            break

    last = launch(data, killed)
    _, stderr = last.communicate(timeout=TIMEOUT)
    assert last.returncode == 0, (outcomes, stderr)
    print(f"\n{len(outcomes)} kills: {outcomes}")  # shown by pytest -s

    assert read_json(killed / "result.json") == read_json(expected / "result.json")
    assert read_json(killed / "result.json")["steps"] > 100
    found, wanted = arrays(killed), arrays(expected)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    lines = read_lines(killed / "metrics.jsonl")
    assert lines == read_lines(expected / "metrics.jsonl")
    assert len(lines) > 60
