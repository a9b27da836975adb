"""The distillation benchmarks at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import distillation, distillation_gradients, distillation_steps
from dedn_jax.files import read_json
from tests.helpers.tiny import tiny_overrides, write_tiny

TINY = {"data__groups": "single", "train__epochs": 4, "train__evaluate_every": 0}


@pytest.mark.slow
def test_objectives_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_tiny(tmp_path / "tiny.hdf5")
    flags = [f for f in tiny_overrides(file, **TINY) if "protocol" not in f]
    arguments = [
        *("--recipe=base", f"--features={file}", f"--out={tmp_path}", "--seeds=1,2"),
        *("--objectives=none,agreement,kl", *flags),
    ]
    distillation.main(arguments)
    rows = {row["objective"]: row for row in read_json(tmp_path / "summary.json")["rows"]}
    assert list(rows) == ["none", "agreement", "kl"]
    kl, base = rows["kl"]["calibrated"]["H"], rows["agreement"]["calibrated"]["H"]
    assert len(kl["values"]) == 2
    assert "over_agreement" not in rows["agreement"]
    over = rows["kl"]["over_agreement"]["H"]
    assert over["mean"] == pytest.approx(kl["mean"] - base["mean"])
    assert over["interval"][0] <= over["mean"] <= over["interval"][1]
    assert len(rows["kl"]["curve"]["H"]) == 4
    assert rows["kl"]["at"]["4"]["AUSUC"] == rows["kl"]["curve"]["AUSUC"][-1]
    assert (tmp_path / "epochs.png").read_bytes()[:4] == b"\x89PNG"
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| `kl` |" in table
    # Finished runs are not run again.
    before = (tmp_path / "kl" / "base_validation_seed1" / "metrics.jsonl").stat().st_mtime_ns
    distillation.main(arguments)
    assert (tmp_path / "table.md").read_text() == table
    after = (tmp_path / "kl" / "base_validation_seed1" / "metrics.jsonl").stat().st_mtime_ns
    assert after == before


@pytest.mark.slow
def test_gradients(tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "tiny.hdf5")
    flags = [f for f in tiny_overrides(file, **TINY) if "data.path" not in f]
    report = tmp_path / "report.json"
    distillation_gradients.main(
        [
            *("--recipe=base", f"--features={file}", "--steps=0,3", "--objectives=agreement,none"),
            *(f"--json={report}", *flags),
        ]
    )
    rows = read_json(report)["rows"]
    assert [(row["objective"], row["step"]) for row in rows] == [
        *(("agreement", 0), ("agreement", 3)),
        *(("none", 0), ("none", 3)),
    ]
    assert rows[0]["over the rest"] > 0.1
    assert rows[2]["over the rest"] == 0
    assert rows[0]["distance"] == rows[2]["distance"] > 0  # the same start


@pytest.mark.slow
def test_step_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    distillation_steps.main(
        [
            *("--sizes=awa2", "--channels=8", "--side=2", "--classes=6,2", "--rounds=1"),
            *("--objectives=agreement,sinkhorn", f"--json={report}"),
        ]
    )
    rows = read_json(report)["rows"]
    assert [row["objective"] for row in rows] == ["agreement", "sinkhorn"]
    assert rows[0]["over agreement"] == 1
    assert rows[1]["ms"] > 0
    assert "over agreement" in capsys.readouterr().out
