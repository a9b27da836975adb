"""Spreads, peaks, operations and tables."""

from __future__ import annotations

import pytest

from benchmarks import common


def test_spread() -> None:
    assert common.spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert common.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_turns_and_peaks() -> None:
    calls = {"a": lambda: 1, "b": lambda: 2}
    assert {name: len(times) for name, times in common.all_turns(calls, 3).items()} == {
        "a": 3,
        "b": 3,
    }
    assert all(value > 0 for value in common.peaks("float32", 1, 16, 64))
    assert common.send_speed(1, 64) > 0


def test_operations_are_those_of_the_products() -> None:
    # Two experts of one attribute; four products a branch, three of the folding.
    assert common.step_flops(1, 1, 1, 1, 1) == 2 * 4 * 2 * 2 + 3 * 2 * 2 * 2 * 2
    assert common.step_flops(50, 312, 1024, 49) == pytest.approx(27.5e9, rel=0.01)


def test_table() -> None:
    rows = [{"name": "a", "ms": 1234.5}, {"name": "long", "ms": 0.5}, {"name": "none"}]
    assert common.text_table(rows, ("name", "ms")) == [
        "name    ms",
        "a     1234",
        "long   0.5",
        "none     -",
    ]
