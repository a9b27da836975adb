"""Metrics of steps, read a call behind."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from dedn_jax.training.schedule import Schedule
from dedn_jax.training.step_metrics import StepMetrics

STATE: Any = None  # nothing of it is read
FINE = {"gradient_norm": 1.0, "parameter_norm": 1.0}


def make(every: int) -> tuple[StepMetrics, list]:
    written: list = []
    schedule = Schedule(1000, every, 1000, 1000, None)
    return StepMetrics("final", schedule, lambda *line: written.append(line)), written


def call(*losses: float) -> dict[str, np.ndarray]:
    filled = np.asarray([*losses, 0.0])  # longer than the call, as of a program for more steps
    return {"loss": filled, **{k: np.full(len(filled), v) for k, v in FINE.items()}}


def alone(loss: float) -> dict[str, np.ndarray]:
    """A program for one step gives numbers."""
    return {k: np.asarray(v[0]) for k, v in call(loss).items()}


def test_a_call_is_read_when_the_next_is_under_way() -> None:
    metrics, written = make(2)
    metrics.add(1, 3, STATE, call(10, 20, 30))
    assert written == []
    metrics.add(4, 3, STATE, call(40, 50, 60))
    assert written == [(2, {"loss": 20.0, **FINE})]
    metrics.add(7, 1, STATE, alone(70))
    assert [step for step, _ in written] == [2, 4, 6]
    metrics.settle()
    metrics.settle()
    assert [values["loss"] for _, values in written] == [20, 40, 60]
    metrics.add(8, 1, STATE, alone(80))
    metrics.settle()
    assert written[-1] == (8, {"loss": 80.0, **FINE})


def test_calls_without_a_logged_step_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, written = make(3)
    read: list[object] = []
    monkeypatch.setattr(jax, "device_get", lambda terms: read.append(terms) or terms)
    for step in range(1, 9):
        metrics.add(step, 1, STATE, call(step))
    assert [terms["loss"][0] for terms in read] == [3, 6]
    metrics.settle()
    assert [terms["loss"][0] for terms in read] == [3, 6, 8]
    assert [step for step, _ in written] == [3, 6]


def test_what_is_not_finite_is_found_before_it_is_saved() -> None:
    metrics, written = make(10)
    metrics.add(1, 2, STATE, call(1, np.nan))
    with pytest.raises(FloatingPointError, match="phase final, step 2: loss not finite; the check"):
        metrics.settle()  # though step 2 is not logged
    metrics.add(9, 2, STATE, call(np.inf, 5))
    metrics.settle()  # the state's last step is what counts, and what is logged
    assert written == [(10, {"loss": 5.0, **FINE})]
    metrics.add(19, 2, STATE, call(5, np.inf))
    with pytest.raises(FloatingPointError, match="step 20: loss not finite"):
        metrics.add(21, 1, STATE, call(5))
    assert len(written) == 1
