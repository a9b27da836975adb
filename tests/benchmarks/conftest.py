"""Peaks that are measured in a moment: no test looks at their values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.common import tiny_peaks


@pytest.fixture(autouse=True)
def quick_peaks() -> Iterator[None]:
    with tiny_peaks():
        yield
