"""Progress bars, live on a terminal, a line now and then in a log file; and notes beside them."""

from __future__ import annotations

import functools
import sys
from typing import Any

from tqdm import tqdm

from dedn_jax.errors import printable
from dedn_jax.pulse import PULSE

_LOG_INTERVAL = 20.0  # seconds between lines where nobody watches


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


def progress(
    total: int,
    desc: str,
    unit: str,
    *,
    initial: int = 0,
    delay: float = 0.0,
    shown: bool = True,
) -> Any:
    """A tqdm bar on stderr with rate and time left.

    Args:
      total: how many units there are.
      desc: what is being done.
      unit: what is counted; bytes (B) are shown in MB and so on.
      initial: units already done.
      delay: seconds before anything is shown, for what may be over at once.
      shown: whether at all; of several processes one is enough.
    """
    live = sys.stderr.isatty()
    return _Bar(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        unit_scale=unit == "B",
        delay=delay,
        disable=not shown,
        dynamic_ncols=live,
        mininterval=0.1 if live else _LOG_INTERVAL,
        maxinterval=10.0 if live else _LOG_INTERVAL,
    )


@functools.cache  # the same is said once
def note(text: str) -> None:
    """A line on stderr, past a bar that may be running."""
    tqdm.write(printable(text), file=sys.stderr)
