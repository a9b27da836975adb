"""The metrics of many models as JSON lines: lists over the models in place of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.logs import drop_after


class SweepLog:
    """Writes one phase's lines; those from after the checkpoint it resumes from go first.

    Args:
      path: the file, shared by the phases of a point.
      phase: name of the phase.
      resumed_at, evaluation_due: as in `dedn_jax.training.logs.MetricsLog`.
    """

    def __init__(self, path: Path, phase: str, resumed_at: int, evaluation_due: bool) -> None:
        self._phase = phase
        drop_after(path, phase, resumed_at, evaluation_due)
        self._file = path.open("a")

    def training(self, step: int, terms: Mapping[str, Sequence[float | None]]) -> None:
        """Loss terms after step `step`; None for models that did not take it."""
        self._write({"phase": self._phase, "step": step, **terms})

    def evaluation(self, step: int, label: str, metrics: Sequence[Metrics | None]) -> None:
        """Metrics in percent, None for diverged models; `label` says on which images."""
        line = {"phase": self._phase, "step": step, "evaluated_on": label}
        self._write({**line, "models": list(metrics)})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
