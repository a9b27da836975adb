"""The GPU's command without one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_parts
from dedn_jax.files import read_json


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--smoke", f"--out={tmp_path}", "--minutes=8"]) == 0
    report = read_json(tmp_path / "gpu.json")
    rows = report["rows"]
    assert {row["part"] for row in rows} == set(gpu_parts.PARTS)
    assert not [row for row in rows if "error" in row]
    assert [row["what"] for row in rows if "skipped" in row] == ["published step"]
    assert all(row["value"] > 0 for row in rows if "value" in row)
    assert all(row["share"] > 0 for row in rows if "mode" in row)
    # Both kernels trained alike.
    last = [row["last_loss"] for row in rows if "mode" in row and "resident" in row["what"]]
    assert len(last) == 2 and last[0] == pytest.approx(last[1], rel=0.02)
    assert "smoke: tiny sizes" in capsys.readouterr().out


def test_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = [{"part": "machine", "what": "machine", "platform": "cpu", "note": ""}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_run_part", lambda *_: list(machine))
        assert gpu.main([f"--out={tmp_path}"]) == 2
    assert "no GPU: JAX finds cpu only" in capsys.readouterr().err


def test_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "x" in name else name)
    assert gpu.main([]) == 2
    error = capsys.readouterr().err
    assert "pip install 'jax[cuda13]' 'flax' 'optax' 'orbax-checkpoint'" in error


def test_a_part_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (row,) = gpu._run_part("machine", tmp_path, 20.0, True, None)
    assert row["error"] == "ended with status 1: no output"


def test_errors_and_time_become_rows(tmp_path: Path) -> None:
    def fails() -> None:
        raise ValueError("two\nlines")

    rows = tmp_path / "rows"
    gpu_parts.Part(rows, 60, True, None).attempt("a", fails)
    gpu_parts.Part(rows, 0, True, None).attempt("b", fails)
    first, second = rows.read_text().splitlines()
    assert '"error": "ValueError: two' in first
    assert second == '{"what": "b", "skipped": "no time left"}'


def test_shares_and_ratios() -> None:
    step = {"mode": "float32", "size": "cub", "value": 2.0, "flops": 1e9, "bytes": 1e6}
    rows = [
        {"peak": "float32", "value": 1.0},  # TFLOP/s: 1 ms
        {"peak": "copy", "value": 1.0},  # GB/s: 1 ms
        {**step, "last_loss": 1.0},
        {"published": True, "size": "cub", "value": 6.0},
    ]
    found = gpu.completed(rows)[2]
    assert found["share"] == pytest.approx(0.5)
    assert found["ratio"] == pytest.approx(3.0)
