"""The input pipeline beside a bare loop, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import input_pipeline
from dedn_jax.files import read_json


@pytest.mark.slow
def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pictures=8", "--side=32", "--batch=4", "--batches=2", "--rounds=1", "--workers=0"]
    input_pipeline.main([*flags, f"--json={tmp_path / 'report.json'}"])
    report = read_json(tmp_path / "report.json")
    assert [row["name"] for row in report["speed"]] == ["bare loop", "pipeline, 0 workers"]
    for row in report["speed"]:
        # A round of one: pixels written in its time, by the copy's speed.
        speed = row["pictures_per_s"]["median"]
        expected = speed * 3 * 32**2 / (1e9 * report["copy_gb_per_s"])
        assert row["of_copy"] == pytest.approx(expected)
    assert report["speed"][0]["share"]["median"] == 1
    assert [row["pictures"] for row in report["memory"]] == [8, 32]
    assert "of copy" in capsys.readouterr().out
