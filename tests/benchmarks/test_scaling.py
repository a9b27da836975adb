"""Two simulated devices and two processes do what one does."""

from __future__ import annotations

from pathlib import Path

from benchmarks import scaling
from dedn_jax.files import read_json


def test_numbers(tmp_path: Path) -> None:
    flags = ["--devices=2", "--processes=2", "--rows=2", "--channels=8", "--regions=4"]
    scaling.main([*flags, "--steps=4", f"--json={tmp_path / 'report.json'}"])
    rows = read_json(tmp_path / "report.json")["rows"]
    assert len(rows) == 4
    assert all(row["difference"] < 1e-4 for row in rows)
    assert all(row["batch"] == 4 and row["step_ms"] > 0 for row in rows)
    sent = {row["collective_mb"] for row in rows}
    assert len(sent) == 1 and sent.pop() > 0
