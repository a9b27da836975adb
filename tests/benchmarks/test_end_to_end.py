"""From pictures to a result at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import end_to_end
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from tests.made_up import picture_folder


@pytest.mark.slow
def test_all_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = picture_folder(tmp_path / "mine")
    flags = ["--set=folder", f"--root={root}", "--side=32", "--epochs=2", "--rounds=1"]
    end_to_end.main([*flags, f"--json={tmp_path / 'report.json'}"])
    report = read_json(tmp_path / "report.json")
    rows = {row["stage"]: row for row in report["rows"]}
    assert list(rows) == [*end_to_end.STAGES, "all"]
    assert rows["all"]["median_s"] == pytest.approx(
        sum(rows[stage]["median_s"] for stage in end_to_end.STAGES)
    )
    assert rows["extract"]["pictures_per_s"] == pytest.approx(48 / rows["extract"]["median_s"])
    assert 0 < rows["train"]["share"] < 1 and 0 < rows["extract"]["share"] < 1
    assert set(report["fused"]) == {"U", "S", "H", "T1", "AUSUC"}
    assert "48 pictures, resnet18, 32 x 32" in capsys.readouterr().out


@pytest.mark.slow
def test_a_command_that_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dedn data build ended with status 2: dedn: .*nothing"):
        end_to_end.main(["--set=folder", f"--root={tmp_path / 'nothing'}", "--rounds=1"])
