"""Where metrics go: JSON lines and TensorBoard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dedn_jax.files import write_atomically


class MetricsLog:
    """Writes one phase's metrics; first drops what came after the checkpoint it resumes from.

    Args:
      lines: the JSON lines file, shared by all phases.
      phase: name of the phase.
      resumed_at: steps already done.
      evaluation_due: whether the last of them is to be evaluated, perhaps again.
      tensorboard: TensorBoard's directory; None: JSON lines alone.
    """

    def __init__(
        self,
        lines: Path,
        phase: str,
        resumed_at: int,
        evaluation_due: bool,
        tensorboard: Path | None = None,
    ) -> None:
        self._phase, self._board = phase, None
        drop_after(lines, phase, resumed_at, evaluation_due)
        self._lines = lines.open("a")
        if tensorboard is not None:
            from tensorboardX import SummaryWriter  # here: it imports torch where it is installed

            self._board = SummaryWriter(
                str(tensorboard / phase), purge_step=resumed_at + 1 if resumed_at else None
            )

    def training(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Loss terms after step `step` (1-based); lists over the models in a sweep."""
        self._write({"phase": self._phase, "step": step, **metrics})
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def evaluation(self, step: int, label: str, metrics: Any) -> None:
        """Metrics in percent; `label` says on which images, and is written with every number."""
        of_models = metrics if isinstance(metrics, dict) else {"models": metrics}
        self._write({"phase": self._phase, "step": step, "evaluated_on": label, **of_models})
        if self._board:
            tag = re.sub(r"[^\w-]+", "_", label).strip("_")  # all that TensorBoard allows in a tag
            for expert, values in metrics.items():
                for name, value in values.items():
                    self._board.add_scalar(f"{tag}/{expert}/{name}", value, step)

    def _write(self, line: dict[str, object]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def close(self) -> None:
        self._lines.close()
        if self._board:
            self._board.close()


class NoLog:
    """Writes nothing: for all processes of a run but one."""

    def training(self, step: int, metrics: Mapping[str, Any]) -> None: ...

    def evaluation(self, step: int, label: str, metrics: Any) -> None: ...

    def close(self) -> None: ...


def read_lines(path: Path) -> list[dict]:
    """All whole lines of a metrics file; a line cut short by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a run that was killed while writing it, or damage
        if (
            isinstance(record, dict)
            and isinstance(record.get("phase"), str)
            and isinstance(record.get("step"), int)
        ):
            records.append(record)
    return records


def drop_after(path: Path, phase: str, step: int, evaluation_due: bool) -> None:
    """Removes what a run wrote after its last checkpoint: the steps are about to be done again.

    Args:
      path: a metrics file.
      phase: whose lines.
      step: of the checkpoint.
      evaluation_due: whether that step's evaluation came after it.
    """

    def stays(record: dict) -> bool:
        after = record["step"] > step
        again = evaluation_due and record["step"] == step and "evaluated_on" in record
        return record["phase"] != phase or not (after or again)

    kept = [record for record in read_lines(path) if stays(record)]
    write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept).encode())
