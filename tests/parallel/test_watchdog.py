"""A watchdog ends a job that does not get on, and lets go of one that has ended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from dedn_jax.parallel import watchdog
from tests.helpers.tiny import tiny_overrides, write_tiny

STALL = 0.3


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set where the process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(watchdog, "_leaving", threading.Event())
    monkeypatch.setattr(watchdog, "end_now", lambda _: event.set())
    return event


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def test_work_that_does_not_get_on(ended: threading.Event) -> None:
    dog = watchdog.Watchdog(silence=60, stall=STALL)
    dog.start()
    assert ended.wait(60)
    dog.stop()


def test_work_that_has_ended(ended: threading.Event) -> None:
    dog = watchdog.Watchdog(silence=60, stall=STALL)
    dog.start()
    (thread,) = watchdogs()
    dog.stop()
    thread.join(60)
    assert not thread.is_alive()
    dog._end("too late")  # found before it was stopped
    assert not ended.is_set()


@pytest.mark.parametrize("refused", [False, True], ids=["ended", "refused"])
def test_a_job_of_the_command_line(refused: bool, tmp_path: Path) -> None:
    """A notebook that calls it lives on: ten minutes later, it was ended as a job that hangs."""
    maps = write_tiny(tmp_path / "maps.hdf5")
    if refused:
        maps.write_bytes(b"no HDF5")
    flags = tiny_overrides(maps, train__epochs=1)
    status = main(["train", "--config=base", f"--workdir={tmp_path / 'run'}", *flags])
    assert status == (2 if refused else 0)
    for thread in watchdogs():
        thread.join(10)
    assert not watchdogs()
