"""The table of schedules, with programs made up in place of compiled ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import schedule
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from tests.plan.answers import made_up_answer


def _arguments(tmp_path: Path, **changed: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "topologies": "v5e:1x1,v5e:4x8",
        "batches": "50",
        "dtype": "bfloat16",
        "precision": None,
        "kernel": "auto",
        "state": "auto",
        "recipe": "cub_gzsl",
        "only": None,
        "timeout": 1.0,
        "json": tmp_path / "report.json",
    }
    return argparse.Namespace(**values | changed)


def _compiled(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    chips = 32 if request["job"] == "train" and request["topology"] == "v5e:4x8" else 1
    times: dict[str, float] = dict.fromkeys(("compute", "memory", "exchange", "latency"), 1e-3)
    times |= {"seconds": 4e-3, "kernels": 0, "operations": 7, "read": 2e6, "written": 1e6}
    return made_up_answer(chips=chips, flops=1e9, schedule=times)


def test_step_and_attention_beside_floor_and_earlier_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "compile_program", _compiled)
    report = schedule.measure(_arguments(tmp_path))
    assert read_json(tmp_path / "report.json") == report
    assert [(r["program"], r["topology"], r["images"]) for r in report["rows"]] == [
        ("step", "v5e:1x1", 50),
        ("attention", "v5e:1x1", 50),
        ("step", "v5e:4x8", 2),
        ("attention", "v5e:4x8", 2),
    ]
    step, attention = report["rows"][:2]
    # 50 images of 4.01 GFLOP, and the folding, at 197 TFLOP/s.
    assert step["floor"]["seconds"] == pytest.approx(1.043e-3, rel=1e-3)
    assert attention["floor"]["seconds"] == pytest.approx(1.018e-3, rel=1e-3)
    before = {"rows": [step | {"seconds": 8e-3}]}
    lines = schedule.table(report, before).splitlines()
    assert "not measured" in lines[0]
    words = [" ".join(line.split()) for line in lines]
    assert words[1].startswith("program slice batch images floor ms bound before ms ms / floor")
    assert words[2].startswith("step v5e:1x1 50 50 1.04 compute 8 4 ")
    assert words[2].endswith(" 7")  # operations
    assert words[3].startswith("attention v5e:1x1 50 50 1.02 compute - 4 ")
    assert "before" not in schedule.table(report)


def test_a_gpu_has_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(request: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer = _compiled(request, timeout)
        del answer["schedule"]
        answer["launches"] = {"launches": 100, "in_loops": 0, "read": 3e9, "written": 0.35e9}
        return answer

    monkeypatch.setattr(schedule, "compile_program", compiled)
    report = schedule.measure(_arguments(tmp_path, topologies="h100", only="step"))
    line = schedule.table(report).splitlines()[-1].split()
    # A millisecond for 3350 MB, and two microseconds for each launch.
    assert line[:6] == ["step", "h100", "50", "50", "0.213", "compute"]
    assert line[6] == "1.2" and line[-1] == "100"
    assert "memory (estimate)" in " ".join(line)


def test_where_the_compiler_fails_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def compiled(request: dict[str, Any], timeout: float) -> dict[str, Any]:
        if request["topology"] == "v5e:1x1":
            raise InputError("--topology: v5e:1x1: INTERNAL: something")
        return _compiled(request, timeout)

    monkeypatch.setattr(schedule, "compile_program", compiled)
    report = schedule.measure(_arguments(tmp_path, only="step"))
    assert report["rows"][0]["error"] == "--topology: v5e:1x1: INTERNAL: something"
    assert "INTERNAL: something" in capfd.readouterr().err
    failed, other = schedule.table(report).splitlines()[-2:]
    assert "not compiled" in failed and other.startswith("step")
    with pytest.raises(InputError, match="INTERNAL: something"):
        schedule.measure(_arguments(tmp_path, topologies="v5e:1x1"))


def test_one_program_alone_and_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(request: dict[str, Any], timeout: float) -> dict[str, Any]:
        return {"kind": "memory", "error": "", "needed": 20e9, "have": 16e9}

    monkeypatch.setattr(schedule, "compile_program", compiled)
    arguments = _arguments(tmp_path, topologies="v5e:1x1", batches="50,400", only="step")
    report = schedule.measure(arguments)
    assert [r["batch"] for r in report["rows"]] == [50, 400]
    assert schedule.table(report).count("does not fit") == 2
