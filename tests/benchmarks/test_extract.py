"""Extraction and its two halves at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import extract
from dedn_jax.errors import InputError
from dedn_jax.files import read_json


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
    assert all(row["median"] > 0 and row["share"] > 0 for row in report["rows"])


def test_too_few_pictures() -> None:
    with pytest.raises(InputError, match="--pictures=4, expected at least three batches"):
        extract.measure(4, 32, "resnet18", "float32", 4, 0, 1)
