"""Spreads, peaks, operations and tables."""

from __future__ import annotations

import pytest

from benchmarks import common
from dedn_jax.config import load_config


def test_spread() -> None:
    assert common.spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert common.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_turns_and_peaks() -> None:
    calls = {"a": lambda: 1, "b": lambda: 2}
    assert {name: len(times) for name, times in common.interleaved(calls, 3).items()} == {
        "a": 3,
        "b": 3,
    }
    assert all(value > 0 for value in common.peaks("float32", 1, 16, 64))
    middle = common.Peaks.median([common.Peaks(1e9, 5e9), common.Peaks(3e9, 4e9)])
    assert middle.numbers() == {"peak_gflop_per_s": 2.0, "copy_gb_per_s": 4.5}
    line = common.peaks_line(middle.numbers())
    assert line == "measured peaks: 2 GFLOP/s product, 4.5 GB/s copy"
    assert common.send_speed(1, 64) > 0


def test_operations_are_those_of_the_products() -> None:
    # Two experts of one attribute; four products a branch, three of the folding.
    assert common.step_flops(1, 1, 1, 1, 1) == 2 * 4 * 2 * 2 + 3 * 2 * 2 * 2 * 2
    assert common.step_flops(50, 312, 1024, 49) == pytest.approx(27.5e9, rel=0.01)
    flags = ["backbone.name=resnet18", "picture.crop=224", "data.format=prepared"]
    config = load_config("base", [f"--config.{flag}" for flag in [*flags, "data.source=images"]])
    # 1.81 G multiply-adds, as published, less the fully connected layer's half a million.
    assert common.picture_flops(config) == pytest.approx(2 * 1.81e9, rel=0.01)


def test_table() -> None:
    rows = [{"name": "a", "ms": 1234.5}, {"name": "long", "ms": 0.5}, {"name": "none"}]
    assert common.text_table(rows, ("name", "ms")) == [
        "name    ms",
        "a     1234",
        "long   0.5",
        "none     -",
    ]
