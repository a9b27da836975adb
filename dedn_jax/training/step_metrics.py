"""The metrics of steps on their way from the device to whoever writes them."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dedn_jax.parallel.executors import metrics_at
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.step import TrainState


class StepMetrics:
    """The `Monitor` of one model: reads the metrics of a call while the next one runs.

    The device would idle if the host waited for each call before it started the next.

    Args:
      phase: its name.
      schedule: which steps are logged.
      write: takes `(step, metrics)` of those, in order.
    """

    def __init__(
        self, phase: str, schedule: Schedule, write: Callable[[int, dict[str, float]], None]
    ) -> None:
        self._phase, self._schedule, self._write = phase, schedule, write
        self._calls: collections.deque[tuple[int, int, Any]] = collections.deque()

    def add(self, first: int, count: int, state: TrainState, metrics: Any) -> None:
        """As `Monitor.add`.

        Raises:
          FloatingPointError: as `settle`, of the call before.
        """
        self._calls.append((first, count, metrics))
        while len(self._calls) > 1:
            self._read(*self._calls.popleft(), last=False)

    def settle(self) -> None:
        """As `Monitor.settle`; the last step is checked whether it is logged or not."""
        while self._calls:
            self._read(*self._calls.popleft(), last=not self._calls)

    @property
    def steps(self) -> int:
        return self._schedule.num_steps

    def active(self, step: int) -> np.ndarray:
        return np.ones(1, bool)

    def finished(self, step: int) -> bool:
        return step >= self._schedule.num_steps

    def _read(self, first: int, count: int, metrics: Any, *, last: bool) -> None:
        end = first + count - 1
        logged = [step for step in range(first, end + 1) if self._schedule.logs(step)]
        if not (logged or last):
            return
        metrics = jax.device_get(metrics)
        for step in sorted({*logged, end} if last else logged):
            values = metrics_at(metrics, step - first)
            _check_finite(self._phase, step, values)
            if step in logged:
                self._write(step, values)


def _check_finite(phase: str, step: int, metrics: dict[str, float]) -> None:
    bad = [k for k in ("loss", "gradient_norm", "parameter_norm") if not math.isfinite(metrics[k])]
    if bad:
        bad += [k for k, v in metrics.items() if k not in bad and not math.isfinite(v)]
        raise FloatingPointError(
            f"phase {phase}, step {step}: {', '.join(bad)} not finite; the checkpoints are from "
            "before that. Check the features, or lower config.optimizer.learning_rate in a new "
            "--workdir"
        )
