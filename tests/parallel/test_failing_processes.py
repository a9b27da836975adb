"""Processes that do not come, differ, fall silent or go: one line, in bounded time, on all."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from tests.helpers.devices import free_port, xla_flags
from tests.helpers.forks import Forked
from tests.helpers.jobs import wait_for_steps
from tests.helpers.tiny import ONE_NETWORK_FLAGS
from tests.made_up import published_file

FLAGS = [
    "--config=base",
    "--config.train.epochs=2000",  # longer than any of these tests
    "--config.train.batch_size=10",
    *ONE_NETWORK_FLAGS,  # sooner at work
    "--config.train.checkpoint_every=10",
    "--config.train.log_every=1",
    "--config.selection.protocol=last",
    "--join-timeout=60",
]
# For what falls silent; a busy machine may keep a process that starts from its signs of life.
SILENCE = ["--silence-timeout=8"]
Start = Callable[..., list[Forked]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process for each list of further flags; kills what is left of them."""
    data = published_file(tmp_path / "features.hdf5")
    running: list[Forked] = []

    def start(*flags: list[str], numbers: list[int] | None = None) -> list[Forked]:
        several = [f"--coordinator=localhost:{free_port()}", f"--processes={len(flags)}"]
        for number, own in zip(numbers or range(len(flags)), flags, strict=False):
            common = [*FLAGS, f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}"]
            job = ["-m", "dedn_jax", "train", *common, *several, f"--process={number}", *own]
            running.append(Forked(*job, XLA_FLAGS=xla_flags()))
        return running

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ending(process: Forked) -> tuple[int, str]:
    """The exit status and the last line."""
    _, errors = process.communicate(timeout=150)
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


def test_one_that_nobody_joins(start: Start) -> None:
    (process,) = start(["--join-timeout=6"], ["--join-timeout=6"], numbers=[0])
    _, errors = process.communicate(timeout=150)
    waits, late = errors.strip().splitlines()  # and nothing of what the runtime says
    assert "process 0 of 2 waits for the others at --coordinator=localhost:" in waits
    assert "for 6 s at most (--join-timeout)" in waits
    assert "dedn: process 0 of 2 waited " in late and "for the others" in late
    assert process.returncode == 1


@pytest.mark.parametrize("address", ["nonsense", "localhost:0", "localhost:http", ":8476"])
def test_an_address_that_is_none(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["train", "--config=base", f"--workdir={tmp_path / 'run'}", "--processes=2"]
    assert main([*flags, f"--coordinator={address}", "--process=0"]) == 2
    assert f"--coordinator={address}, expected HOST:PORT" in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["train", "--config=base", f"--workdir={tmp_path / 'run'}", "--processes=2"]
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        assert main([*flags, f"--coordinator={address}", "--process=0"]) == 2
    assert "process 0 cannot listen on port" in capsys.readouterr().err


def test_two_with_the_same_number(start: Start) -> None:
    flags = ["--join-timeout=10"]
    for process in start(flags, flags, flags, numbers=[0, 1, 1]):
        status, line = ending(process)
        assert status == 1
        assert "for the others at --coordinator=localhost:" in line


def test_processes_that_differ(start: Start, tmp_path: Path) -> None:
    other = ["--config.train.epochs=5", "--config.train.steps_per_call=3"]
    for process in start([], other):
        status, line = ending(process)
        assert status == 2, line
        assert "the processes differ in what they run: process 1" in line
        assert "config.train.epochs=5, not 2000" in line
        assert "config.train.steps_per_call=3, not" in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_folders_that_differ(start: Start, tmp_path: Path) -> None:
    for process in start([], [f"--workdir={tmp_path / 'another'}"]):
        status, line = ending(process)
        assert status == 2
        assert f"dedn: {tmp_path / 'another'}: process 1" in line
        assert "is its file system mounted on each machine?" in line
    assert not (tmp_path / "run" / ".shared-by-processes").exists()


def test_an_input_of_one(start: Start, tmp_path: Path) -> None:
    """The others say it once, whether they heard of it or lost the connection."""
    first, bad, last = start([], [f"--config.data.path={tmp_path / 'missing.hdf5'}"], [])
    status, line = ending(bad)
    assert status == 2 and "missing.hdf5" in line
    for process in (first, last):
        status, line = ending(process)
        assert status == 1
        assert line.startswith("dedn: process 1 (") and "missing.hdf5" in line
        assert line.count("has ended") == 1


@pytest.mark.slow
def test_one_of_three_that_is_killed(start: Start, tmp_path: Path) -> None:
    processes = start([], [], [])
    wait_for_steps(tmp_path / "run", 12, processes)
    processes[1].kill()
    for process in (processes[0], processes[2]):
        status, line = ending(process)
        assert status == 1
        # Which of the two comes first depends on what it waits for.
        assert line.startswith(("dedn: another process of this run has ended", "dedn: process 1 ("))
        assert line.count("has ended") <= 1


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_that_is_stopped(start: Start, tmp_path: Path, which: int) -> None:
    """Alive, but not at work, as after SIGSTOP or in a machine that swaps."""
    processes = start(SILENCE, SILENCE)
    wait_for_steps(tmp_path / "run", 12, processes)
    processes[which].send_signal(signal.SIGSTOP)
    status, line = ending(processes[1 - which])
    assert status == 1
    assert f"dedn: process {which}" in line
    # It gives a sign every few seconds: the last one may be from before its first step.
    assert "has given no sign of life for 8 s (--silence-timeout), last '" in line


def test_the_coordinator_that_dies(start: Start, tmp_path: Path) -> None:
    dies, other = start(SILENCE, SILENCE)
    wait_for_steps(tmp_path / "run", 12, [dies, other])
    dies.kill()
    status, line = ending(other)
    assert status == 1
    assert "dedn: another process of this run has ended, or cannot be reached" in line


def test_a_second_signal_ends_what_hangs(start: Start, tmp_path: Path) -> None:
    stopped, hangs = start([], ["--silence-timeout=100"])
    wait_for_steps(tmp_path / "run", 12, [stopped, hangs])
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(1)  # it waits for the other now, in a collective operation
    hangs.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert hangs.poll() is None
    hangs.send_signal(signal.SIGTERM)
    _, errors = hangs.communicate(timeout=60)
    assert hangs.returncode == 128 + signal.SIGTERM
    assert errors.strip().splitlines()[-1] == "dedn: ended at once, by a second signal"
