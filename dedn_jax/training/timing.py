"""How fast a run trains, and how much of its time it trains: what `metrics.jsonl` says of time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Fields of a line of metrics that differ between two equal runs.
TIMING = ("time", "steps_per_second", "step_seconds", "goodput")


class StepClock:
    """Runs while steps run: not while a program compiles, nor while a run evaluates or saves.

    Attributes:
      steps: taken while it ran.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._before, self._since = 0.0, math.nan

    def start(self) -> None:
        """Runs from now on."""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """For how long it has run."""
        running = not math.isnan(self._since)
        return self._before + (time.perf_counter() - self._since if running else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops within the block, if it runs."""
        running = not math.isnan(self._since)
        self._before, self._since = self.seconds, math.nan
        try:
            yield
        finally:
            if running:
                self.start()


class Timing:
    """The fields `TIMING` of the lines of one phase.

    Args:
      clock: of the phase.
      first_start: of the run, seconds since 1970.

    Attributes:
      seconds_before: that steps took before the phase, or before it was resumed, as far as they
        were kept.
    """

    def __init__(self, clock: StepClock, first_start: float, seconds_before: float = 0.0) -> None:
        self._clock, self._first_start = clock, first_start
        self.seconds_before = seconds_before
        self._seen = (0, 0.0)
        self._rate: float | None = None

    def now(self) -> dict[str, float]:
        """`time`, seconds since 1970; `steps_per_second` since the call before, without what the
        clock leaves out; `step_seconds`, what all steps took that were kept, restarts or not; and
        `goodput`, the share of them in the time since the run's first start.
        """
        now, steps, seconds = time.time(), self._clock.steps, self._clock.seconds
        done, passed = steps - self._seen[0], seconds - self._seen[1]
        # Several lines may be of one call of the device: they have one speed.
        if done > 0 and passed > 0:
            self._rate, self._seen = done / passed, (steps, seconds)
        total, elapsed = self.seconds_before + seconds, now - self._first_start
        found = {"time": round(now, 3)}
        if self._rate is not None:
            found["steps_per_second"] = float(f"{self._rate:.4g}")
        found["step_seconds"] = round(total, 3)
        if elapsed > 0:
            found["goodput"] = round(min(1.0, total / elapsed), 4)
        return found


def without_timing(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics as an equal run would have written it."""
    return {name: value for name, value in line.items() if name not in TIMING}


def step_seconds(line: Mapping[str, Any]) -> float:
    """What the steps up to a line took; 0 where it does not say."""
    found = line.get("step_seconds")
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 <= found < math.inf:
        return 0.0
    return float(found)
