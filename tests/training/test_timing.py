"""What `metrics.jsonl` says of time: speed, and goodput across starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dedn_jax.inference.run import train
from dedn_jax.training.environment import started
from dedn_jax.training.interrupt import Interrupted, StopRequest
from dedn_jax.training.logs import MetricsLog, last_step_seconds, read_lines
from dedn_jax.training.timing import TIMING, StepClock, Timing, without_timing
from tests.helpers.tiny import ONE_NETWORK
from tests.training.common import Finished


class Time:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: 1.5e9 + self.now)


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def test_clock_leaves_out_what_is_no_step(clock_time: Time) -> None:
    clock = StepClock()
    clock_time.now += 30  # a program is compiled
    assert clock.seconds == 0
    with clock.paused():
        clock_time.now += 1
    assert clock.seconds == 0
    clock.start()
    clock_time.now += 2
    with clock.paused():  # an evaluation
        clock_time.now += 5
        assert clock.seconds == 2
    clock_time.now += 1
    assert clock.seconds == 3


def test_speed_and_goodput(clock_time: Time) -> None:
    clock = StepClock()
    timing = Timing(clock, first_start=1.5e9 + 900, seconds_before=20)
    assert timing.now() == {"time": 1.5e9 + 1000, "step_seconds": 20, "goodput": 0.2}
    clock.start()
    clock.steps += 10
    clock_time.now += 4
    expected = {"steps_per_second": 2.5, "step_seconds": 24, "goodput": round(24 / 104, 4)}
    assert timing.now() == {"time": 1.5e9 + 1004, **expected}
    clock_time.now += 1  # another line of the same call
    assert timing.now()["steps_per_second"] == 2.5
    clock.steps += 10
    clock_time.now += 4  # 10 steps in 5 seconds
    assert timing.now()["steps_per_second"] == 2


def test_steps_that_are_done_again_do_not_count(clock_time: Time, tmp_path: Path) -> None:
    """A resumed phase goes on from what steps had taken at its checkpoint."""
    file = tmp_path / "metrics.jsonl"
    clock = StepClock()
    log = MetricsLog(file, "final", 0, False, timing=Timing(clock, 1.5e9 + 1000))
    clock.start()
    for step in range(1, 6):
        clock_time.now += 2
        clock.steps += 1
        log.training(step, {"loss": 0.5})
    log.close()
    assert last_step_seconds(file) == 10
    clock_time.now += 10
    resumed = MetricsLog(file, "final", 3, False, timing=Timing(StepClock(), 1.5e9 + 1000))
    resumed.evaluation(3, "validation classes", {"fused": {"H": 50.0}})
    resumed.close()
    *_, before, last = read_lines(file, timing=True)
    assert before["step_seconds"] == last["step_seconds"] == 6
    assert last["goodput"] == 6 / 20
    assert last["fused"] == {"H": 50.0}


def test_a_damaged_line_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    values = ("3.5", '"x"', "true", "-1", "NaN", "Infinity", "[1]")
    lines = [f'{{"phase": "final", "step": 1, "step_seconds": {v}}}\n' for v in values]
    file.write_text("".join(lines))
    assert last_step_seconds(file) == 3.5
    assert last_step_seconds(tmp_path / "missing") == 0


def test_a_run_tells_of_all_its_starts(finished: Callable[..., Finished], tmp_path: Path) -> None:
    config, stop = finished("validation", **ONE_NETWORK).config, StopRequest()
    stop.request()
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", stop=stop)
    run = train(config, tmp_path / "run")
    assert started(tmp_path / "run") == [1, 2, 3]
    lines = read_lines(run.workdir.metrics_file, timing=True)
    assert {line["phase"] for line in lines} == {"validation", "final"}
    assert all({"time", "step_seconds"} <= line.keys() for line in lines)
    for name in ("time", "step_seconds"):
        values = [line[name] for line in lines]
        assert values == sorted(values)
    assert 0 < lines[-1]["step_seconds"] < lines[-1]["time"] - lines[0]["time"] + 60
    assert 0 < lines[-1]["goodput"] <= 1
    assert lines[-1]["steps_per_second"] > 0
    # All that tells of time is left out where runs are compared.
    assert [without_timing(line) for line in lines] == read_lines(run.workdir.metrics_file)
    assert not any(name in line for line in read_lines(run.workdir.metrics_file) for name in TIMING)
    train(config, tmp_path / "run")  # finished: nothing is started
    assert started(tmp_path / "run") == [1, 2, 3]
