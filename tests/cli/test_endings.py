"""Ends of a job that is one process of several: what is told apart by its text."""

from __future__ import annotations

import jax
import pytest

from dedn_jax.cli.endings import ending_of
from dedn_jax.errors import ProcessesError

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
    line, status = ending_of(error, several=True)
    assert status == 1
    assert line.startswith("another process of this run has ended, or cannot be reached (")
    with pytest.raises(type(error)):
        ending_of(error, several=False)


def test_a_mistake_of_ours_in_several() -> None:
    with pytest.raises(ValueError, match="shapes"):
        ending_of(ValueError("shapes"), several=True)


def test_a_process_that_did_not_come() -> None:
    assert ending_of(ProcessesError("process 1 did not come"), several=True) == (
        "process 1 did not come",
        1,
    )
