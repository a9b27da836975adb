"""What is said of a worker process that is gone, by what ended it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from dedn_jax.data.workers import elements
from dedn_jax.errors import ProcessesError


class Ended:
    """A grain data set whose worker ends in some way."""

    def __init__(self, status: int) -> None:
        self._status = status

    def __iter__(self) -> Iterator[int]:
        yield 1
        raise RuntimeError(
            f"Worker process was terminated unexpectedly with exit code {self._status}. Search"
        )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            -signal.SIGBUS,
            "was killed by SIGBUS: .* /dev/shm, which has 67 MB here: .*--shm-size=8g",
        ),
        (-signal.SIGKILL, "was killed by SIGKILL: .* when memory runs out"),
        (-signal.SIGSEGV, "was killed by SIGSEGV: see its lines above"),
        (3, "ended with status 3: see its lines above"),
    ],
)
def test_why(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20))
    found = elements(Ended(status), 2)  # type: ignore[arg-type]
    assert next(found) == 1
    with pytest.raises(ProcessesError, match=rf"\(--config.data.workers=2\) {said}"):
        next(found)
