"""Prediction and its parts at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import predict
from dedn_jax.files import read_json
from tests.helpers.picture_runs import PictureRuns


@pytest.mark.slow
def test_numbers(picture_runs: PictureRuns, tmp_path: Path) -> None:
    workdir = f"--workdir={picture_runs.small.workdir.path}"
    flags = ["--batch=4", "--rounds=2", f"--json={tmp_path / 'report.json'}"]
    predict.main([workdir, str(picture_runs.folder / "class 1"), *flags])
    report = read_json(tmp_path / "report.json")
    assert report["problem"].startswith("4 pictures to 64 x 64, SmallNet, 6 attributes, 8 classes")
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["predict", "backbone alone", "reading alone"]
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows.values())
    assert rows["backbone alone"]["of_backbone"] == pytest.approx(1)
    assert rows["predict"]["of_backbone"] > 0
