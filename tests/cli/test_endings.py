"""Ends of a job that is one process of several: what is told apart by its text."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from dedn_jax.cli import main
from dedn_jax.cli.endings import ending_of
from dedn_jax.errors import OthersError, ProcessesError
from dedn_jax.files import write_json
from dedn_jax.parallel import watchdog

GLOO = "INTERNAL: Gloo AllGather failed: [external/gloo/pair.cc:538] Connection reset by peer"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(GLOO),
        RuntimeError("odd"),
        jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out"),
    ],
)
def test_a_process_that_has_gone(error: Exception) -> None:
    line, status, of_others = ending_of(error, several=True)
    assert status == 1 and of_others
    assert line.startswith("another process of this run has ended, or cannot be reached (")
    with pytest.raises(type(error)):
        ending_of(error, several=False)


def test_a_mistake_of_ours_in_several() -> None:
    with pytest.raises(ValueError, match="shapes"):
        ending_of(ValueError("shapes"), several=True)


@pytest.mark.parametrize("several", [True, False])
def test_a_mistake_of_ours_is_told_to_the_others(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(watchdog, "take_leave", lambda line, of_others: told.append(line))
    monkeypatch.setattr(main, "joins_processes", lambda args: several)

    def broken() -> None:
        raise ValueError("shapes\nof two lines")

    monkeypatch.setattr(main, "leave_out_absent_tpus", broken)
    with pytest.raises(ValueError, match="shapes"):
        main.main(["info"])
    assert told == ["ValueError: shapes of two lines"] * several


@pytest.mark.parametrize("kind", [ProcessesError, OthersError])
def test_processes_that_cannot_go_on(kind: type[ProcessesError]) -> None:
    """A worker of this process is its own."""
    found = ending_of(kind("process 1 did not come"), several=True)
    assert found == ("process 1 did not come", 1, kind is OthersError)


@pytest.mark.parametrize(
    ("said", "status", "advice"),
    [
        ("'gpus': Backend 'gpus' is not in the list of known backends", 2, "JAX_PLATFORMS"),
        ("'tpu': UNKNOWN: The TPU is already in use by process with pid 7", 1, "end that"),
    ],
)
def test_devices_that_cannot_be_used(said: str, status: int, advice: str) -> None:
    """A name that nobody has is a mistake; a device that is taken may be free again."""
    found = ending_of(RuntimeError(f"Unable to initialize backend {said}"), several=False)
    assert found.status == status
    assert said in found.line and advice in found.line


def test_a_file_that_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_json(tmp_path / "result.json", {})
    assert ending_of(caught.value, several=False) == (
        f"{tmp_path / 'result.json'}: Is a directory",
        2,
        False,
    )
