"""Progress: a bar on a terminal, a line now and then in a log file; and notes beside it."""

from __future__ import annotations

import datetime
import functools
import sys
import time
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from dedn_jax.errors import printable
from dedn_jax.pulse import PULSE

_LOG_INTERVAL = 15.0  # seconds between lines where nobody watches
_clock = time.monotonic


class _Bar(tqdm):
    """A bar whose progress is a sign of life as well, shown or not."""

    def __init__(self, *, initial: int, desc: str, unit: str, **kwargs: Any) -> None:
        super().__init__(initial=initial, desc=desc, unit=unit, **kwargs)
        # One that is not shown does not keep them.
        self._what, self._counted, self._done = desc, unit, initial

    def update(self, n: float | None = 1) -> bool | None:
        self._done += int(n or 0)
        PULSE.beat(f"{self._what}, {self._counted} {self._done}")
        return super().update(n)


class _Lines:
    """What a bar shows, as lines of a log file.

    Args:
      total, desc, unit, initial, delay: as `progress`.
    """

    def __init__(self, total: int, desc: str, unit: str, initial: int, delay: float) -> None:
        self.n = initial
        self._total, self._desc, self._unit, self._delay = total, desc, unit, delay
        self._start = self._said = _clock()
        # The rate is of what comes after the first update, which may compile a program.
        self._first = (initial, self._start)
        self._initial, self._postfix = initial, ""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = _clock()
        if error is None and now - self._start >= self._delay:
            self._say(now, f"in {_duration(now - self._start)}")

    def update(self, n: int = 1) -> None:
        """Counts `n` more, and says so if that was not done for a while."""
        now = _clock()
        self.n += n
        PULSE.beat(f"{self._desc}, {self._unit} {self.n}")
        if self._first[0] == self._initial:
            self._first = (self.n, now)
        if now - self._said >= _LOG_INTERVAL and (self.n < self._total or not self._total):
            rate = self._rate(now)
            known = self._total and rate
            self._say(now, f"{_duration((self._total - self.n) / rate)} left" if known else "")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What is said at the end of a line."""
        self._postfix = text

    def write(self, text: str, file: IO[str] | None = None) -> None:
        """A line of its own, to standard output unless a file is given."""
        print(text, file=file or sys.stdout, flush=True)

    def _rate(self, now: float) -> float:
        """Units per second."""
        count, since = self._first
        if self.n <= count:
            count, since = self._initial, self._start
        return (self.n - count) / max(now - since, 1e-9)

    def _say(self, now: float, when: str) -> None:
        self._said = now
        bytes_ = self._unit == "B"
        scale, unit = (1e6, "MB") if bytes_ else (1, f"{self._unit}s")
        shown = f"{self.n / scale:.{int(bytes_)}f}"
        if self._total:
            shown += f"/{self._total / scale:.{int(bytes_)}f}"
        rate = self._rate(now) / scale
        speed = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        speed = f"{speed} {unit}/s" if rate else ""
        parts = (f"{self._desc} {shown} {unit}", speed, when, self._postfix)
        date = datetime.datetime.now().isoformat(" ", "seconds")
        text = printable(", ".join(part for part in parts if part))
        print(f"{date} {text}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """As clocks show it: `1:09`, `2:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress(
    total: int,
    desc: str,
    unit: str,
    *,
    initial: int = 0,
    delay: float = 0.0,
    shown: bool = True,
) -> Any:
    """A bar on stderr with rate and time left; lines where stderr is no terminal.

    Args:
      total: how many units there are; 0 if not known.
      desc: what is being done.
      unit: what is counted, in the singular; bytes (B) are shown in MB and so on.
      initial: units already done.
      delay: seconds before anything is shown, for what may be over at once.
      shown: whether at all; of several processes one is enough.
    """
    if shown and not sys.stderr.isatty():
        return _Lines(total, desc, unit, initial, delay)
    return _Bar(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        unit_scale=unit == "B",
        delay=delay,
        disable=not shown,
        dynamic_ncols=True,
    )


@functools.cache  # the same is said once
def note(text: str) -> None:
    """A line on stderr, past a bar that may be running."""
    tqdm.write(printable(text), file=sys.stderr)
