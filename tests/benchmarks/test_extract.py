"""Extraction and its two halves at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import extract
from dedn_jax.errors import InputError
from dedn_jax.files import read_json


@pytest.mark.slow
def test_numbers(tmp_path: Path) -> None:
    flags = ["--pictures=12", "--side=32", "--batch=4", "--rounds=1"]
    extract.main([*flags, f"--json={tmp_path / 'report.json'}"])
    report = read_json(tmp_path / "report.json")
    assert report["bound"] in ("backbone", "pipeline")
    assert [row["name"].split()[0] for row in report["rows"]] == [
        "extraction",
        "backbone",
        "pipeline",
    ]
    assert all(row["median"] > 0 and row["of_bound"] > 0 for row in report["rows"])
    flops, peak = 1e9 * report["gflop_of_picture"], 1e9 * report["peak_gflop_per_s"]
    for row in report["rows"][:2]:
        assert row["share"] == pytest.approx(row["median"] * flops / peak)
    pixels, copy = 3 * 32**2, 1e9 * report["copy_gb_per_s"]
    assert report["rows"][2]["share"] == pytest.approx(report["rows"][2]["median"] * pixels / copy)


def test_too_few_pictures() -> None:
    with pytest.raises(InputError, match="--pictures=4, expected at least three batches"):
        extract.measure(4, 32, "resnet18", "float32", 4, 0, 1)
