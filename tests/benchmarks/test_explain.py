"""An explanation and its parts at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import explain
from dedn_jax.files import read_json
from tests.helpers.picture_runs import PictureRuns


@pytest.mark.slow
def test_numbers(picture_runs: PictureRuns, tmp_path: Path) -> None:
    picture = picture_runs.folder / "class 1" / "0.jpg"
    flags = ["--rounds=2", f"--json={tmp_path / 'report.json'}"]
    explain.main([f"--workdir={picture_runs.small.workdir.path}", str(picture), *flags])
    report = read_json(tmp_path / "report.json")
    assert report["problem"].startswith("a picture to 64 x 64, SmallNet, 6 attributes, 8 classes")
    rows = {row["name"]: row for row in report["rows"]}
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows.values())
    assert rows["explanation and its files"]["low"] > rows["explanation"]["low"]
