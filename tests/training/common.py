"""What several tests of training use: finished runs, requests to stop, snapshots of folders."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.training.interrupt import StopRequest


@dataclasses.dataclass
class Finished:
    """A finished run."""

    path: Path
    config: ConfigDict
    result: dict[str, Any]
    lines: list[dict[str, Any]]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time of change."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


class StopAfter(StopRequest):
    """Asks to stop when it was looked at a number of times; 0: never."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def signal_number(self) -> int:  # type: ignore[override]
        self._looks -= 1
        return signal.SIGTERM if self._looks == 0 else 0


class DieAfter(StopAfter):
    """Ends the run where `StopAfter` would ask it to stop: nothing is saved."""

    @property
    def signal_number(self) -> int:  # type: ignore[override]
        if super().signal_number:
            raise RuntimeError("killed")
        return 0
