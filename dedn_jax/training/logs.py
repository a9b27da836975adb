"""Where metrics go: JSON lines and TensorBoard. Neither ever stops a training."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import atomic_file, open_regular
from dedn_jax.json_values import TEXT, parse_json, record, whole
from dedn_jax.training.event_file import event_file_name, first_events, scalar_events
from dedn_jax.training.timing import Timing, step_seconds, without_timing

METRICS_FILE = "metrics.jsonl"
_MAX_READ = 2**28  # bytes of a file that is read whole; what is appended to may be larger
_MAX_LINE = 2**24  # bytes; of a sweep of 1,000 models a line has 10**6
_LINE = record({"phase": TEXT, "step": whole(0)})


class MetricsLog:
    """Writes one phase's metrics; first drops what came after the checkpoint it resumes from.

    Where they cannot be written that is said once; training goes on, and they are written as soon
    as there is room.

    Args:
      lines: the JSON lines file, shared by all phases.
      phase: name of the phase.
      resumed_at: steps already done.
      evaluation_due: whether the last of them is to be evaluated, perhaps again.
      tensorboard: TensorBoard's directory; None: JSON lines alone.
      timing: what lines say of time; None: nothing.
    """

    def __init__(
        self,
        lines: Path,
        phase: str,
        resumed_at: int,
        evaluation_due: bool,
        tensorboard: Path | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._phase = phase
        self._said = False
        self._lines = _Appended(
            lines, self._say, lambda: drop_after(lines, phase, resumed_at, evaluation_due)
        )
        self._board: _Appended | None = None
        self._lines.write(b"")
        self._timing = timing
        if timing:
            timing.seconds_before += last_step_seconds(lines)
        if tensorboard is not None:
            folder = tensorboard / phase
            self._board = _Appended(
                folder / event_file_name(),
                self._say,
                lambda: folder.mkdir(parents=True, exist_ok=True),
            )
            self._board.write(first_events(resumed_at + 1 if resumed_at else None))

    def training(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Loss terms after step `step` (1-based); lists over the models in a sweep."""
        self._write({"phase": self._phase, "step": step, **metrics})
        if self._board:
            self._board.write(scalar_events("train", metrics, step))

    def evaluation(self, step: int, label: str, metrics: Any) -> None:
        """Metrics in percent; `label` says on which images, and is written with every number."""
        of_models = metrics if isinstance(metrics, dict) else {"models": metrics}
        self._write({"phase": self._phase, "step": step, "evaluated_on": label, **of_models})
        if self._board:
            tag = re.sub(r"[^\w-]+", "_", label).strip("_")  # all that TensorBoard allows in a tag
            for expert, values in metrics.items():
                self._board.write(scalar_events(f"{tag}/{expert}", values, step))

    def close(self) -> None:
        self._lines.close()
        if self._board:
            self._board.close()

    def _write(self, line: dict[str, object]) -> None:
        timing = self._timing.now() if self._timing else {}
        self._lines.write((json.dumps(line | timing) + "\n").encode())

    def _say(self, path: Path, error: Exception) -> None:
        if not self._said:
            reason = getattr(error, "strerror", None) or one_line(error)
            tqdm.write(
                f"dedn: {path}: cannot be written ({reason}); "
                "training goes on, and metrics are written when there is room",
                file=sys.stderr,
            )
        self._said = True


class _Appended:
    """A file that is added to; what cannot be written is kept for the next time.

    Args:
      path: the file, made if missing.
      say: told of errors.
      prepare: called before the file is opened, again after an error.
    """

    def __init__(
        self, path: Path, say: Callable[[Path, Exception], None], prepare: Callable[[], None]
    ) -> None:
        self._path, self._say, self._prepare = path, say, prepare
        self._handle: int | None = None
        self._pending = b""

    def write(self, data: bytes) -> None:
        """Adds bytes; never raises an error of the file system."""
        self._pending += data
        try:
            if self._handle is None:
                self._prepare()
                self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            while self._pending:
                written = os.write(self._handle, self._pending)
                self._pending = self._pending[written:]
        except OSError as error:
            self._say(self._path, error)

    def close(self) -> None:
        """Tries once more."""
        self.write(b"")
        if self._handle is not None:
            try:
                os.close(self._handle)
            except OSError as error:  # NFS may say only now what it could not write
                self._say(self._path, error)


class NoLog:
    """Writes nothing: for all processes of a run but one."""

    def training(self, step: int, metrics: Mapping[str, Any]) -> None: ...

    def evaluation(self, step: int, label: str, metrics: Any) -> None: ...

    def close(self) -> None: ...


def read_lines(path: Path, *, timing: bool = False) -> list[dict]:
    """All whole lines of a metrics file; a line cut short by a crash is left out.

    Args:
      path: the file.
      timing: with the fields that tell of time (`training.timing`); without them two equal runs
        have equal lines.

    Raises:
      InputError: not a regular file, or one of more than 256 MiB.
    """
    lines = _lines(path, _MAX_READ)
    return list(lines if timing else map(without_timing, lines))


def last_step_seconds(path: Path) -> float:
    """What all steps in a metrics file took together; 0 where it does not say."""
    last = 0.0
    try:
        for line in _lines(path):
            last = step_seconds(line) or last
    except (InputError, OSError):
        return last
    return last


def _lines(path: Path, max_bytes: int | None = None) -> Iterator[dict]:
    """The lines one after the other; none where there is no file."""
    try:
        file = open_regular(path, max_bytes)
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(_MAX_LINE):
            try:
                found = parse_json(line.decode(errors="replace"))
                _LINE.check(found)
            except ValueError:
                continue  # the last line of a run that was killed while writing it, or damage
            yield found


def drop_after(path: Path, phase: str, step: int, evaluation_due: bool) -> None:
    """Removes what a run wrote after its last checkpoint: the steps are about to be done again.

    Args:
      path: a metrics file.
      phase: whose lines.
      step: of the checkpoint.
      evaluation_due: whether that step's evaluation came after it.
    """

    def stays(line: dict) -> bool:
        after = line["step"] > step
        again = evaluation_due and line["step"] == step and "evaluated_on" in line
        return line["phase"] != phase or not (after or again)

    with atomic_file(path) as file:
        for line in filter(stays, _lines(path)):
            file.write(json.dumps(line).encode() + b"\n")
