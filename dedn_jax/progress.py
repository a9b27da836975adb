"""Progress bars, live on a terminal, a line now and then in a log file; and notes beside them."""

from __future__ import annotations

import functools
import sys
from typing import Any

from tqdm import tqdm

_LOG_INTERVAL = 20.0  # seconds between lines where nobody watches


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
    return tqdm(
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
    tqdm.write(text, file=sys.stderr)
