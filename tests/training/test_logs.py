"""Metrics files: what a resumed phase drops, and disks that are full for a while."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dedn_jax.training.logs import MetricsLog, read_lines


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard's files of a folder say: tag, step, value."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events*")):
        data = file.read_bytes()
        while len(data) >= 16 + (length := int.from_bytes(data[:8], "little")):
            event = Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def test_lines_and_scalars(tmp_path: Path) -> None:
    lines, board = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    log = MetricsLog(lines, "final", 0, False, board)
    log.training(3, {"loss": 0.5, "margin": 0.25})
    log.evaluation(3, "test sets (test-best)", {"fused": {"H": 50.0}})
    log.close()
    assert read_lines(lines) == [
        {"phase": "final", "step": 3, "loss": 0.5, "margin": 0.25},
        {
            "phase": "final",
            "step": 3,
            "evaluated_on": "test sets (test-best)",
            "fused": {"H": 50.0},
        },
    ]
    assert scalars(board / "final") == [
        ("train/loss", 3, 0.5),
        ("train/margin", 3, 0.25),
        ("test_sets_test-best/fused/H", 3, 50.0),
    ]
    again = MetricsLog(lines, "final", 3, True)
    again.close()
    assert [line["step"] for line in read_lines(lines)] == [3]
    assert MetricsLog(lines, "final", 2, False).close() is None
    assert read_lines(lines) == []


class FullDisk:
    """Takes a number of bytes more, then none until there is room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self._write = room, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(handle, data[: self.room])
        self.room -= written
        return written


def test_lines_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "metrics.jsonl"
    log = MetricsLog(lines, "final", 0, False)
    disk = FullDisk(monkeypatch, room=60)
    for step in range(5):
        log.training(step, {"loss": 1.0})
    assert [line["step"] for line in read_lines(lines)] == [0]
    disk.room = 1000
    log.training(5, {"loss": 1.0})
    log.close()
    assert [line["step"] for line in read_lines(lines)] == list(range(6))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"dedn: {lines}: cannot be written (No space left on device); training")


def test_a_file_that_cannot_be_made_whole_waits_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of steps that are done again are dropped before any are added."""
    lines = tmp_path / "metrics.jsonl"
    first = MetricsLog(lines, "final", 0, False)
    for step in (1, 2, 3):
        first.training(step, {})
    first.close()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        log = MetricsLog(lines, "final", 1, False)
        log.training(2, {"again": 1})
        assert [line["step"] for line in read_lines(lines)] == [1, 2, 3]
    log.training(3, {"again": 1})
    log.close()
    assert [(r["step"], r.get("again")) for r in read_lines(lines)] == [(1, None), (2, 1), (3, 1)]
    assert capsys.readouterr().err.count("\n") == 1


def test_tensorboard_waits_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, board = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    log = MetricsLog(lines, "final", 0, False, board)
    disk = FullDisk(monkeypatch, room=100)
    for step in range(50):  # more than any queue would take
        log.training(step, {"loss": 1.0})
    assert len(read_lines(lines)) < 5 and len(scalars(board / "final")) < 5
    disk.room = 10**6
    log.close()
    assert len(read_lines(lines)) == 50
    assert scalars(board / "final") == [("train/loss", step, 1.0) for step in range(50)]
    assert capsys.readouterr().err.count("\n") == 1


def test_tensorboard_that_cannot_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    log = MetricsLog(tmp_path / "metrics.jsonl", "final", 0, False, tmp_path / "tensorboard")
    log.training(1, {"loss": 1.0})
    log.close()
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 1
    assert capsys.readouterr().err.count("\n") == 1
