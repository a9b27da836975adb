"""The GPU's command without one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu, gpu_parts
from dedn_jax.files import read_json

ROOT = Path(gpu.__file__).parents[1]
CPU = {"platform": "cpu", "gpus": "", "note": "a CPU", "weights": {"machine": 1.0}}


@pytest.mark.slow
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
    assert 0 < report["compile_seconds"] < report["seconds"]
    assert "smoke: tiny sizes" in capsys.readouterr().out


def test_no_gpu(tmp_path: Path) -> None:
    """One line, before anything is measured or written."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.startswith("gpu: no GPU: JAX finds cpu only") and done.stderr.count("\n") == 1
    )
    assert not out.exists()


def test_a_gpu_that_jax_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "found_device", lambda: CPU | {"gpus": "NVIDIA H100 80GB HBM3"})
    assert gpu.main([f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "the driver lists NVIDIA H100 80GB HBM3: install jax[cuda13]" in error


def test_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert gpu.main([f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == "gpu: cannot start: no output\n"


def test_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "found_device", lambda: CPU | {"weights": {"a": 1.0, "b": 2.0}})
    ran = []
    monkeypatch.setattr(gpu, "_run_parts", lambda names, *_: ran.extend(names) or [])
    assert gpu.main(["--smoke", f"--out={tmp_path}", "--parts=b"]) == 0
    assert ran == ["b"]
    capsys.readouterr()
    assert gpu.main(["--smoke", f"--out={tmp_path}", "--parts=b,c"]) == 2
    assert capsys.readouterr().err == "gpu: --parts: 'c', expected names from a, b\n"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([f"--minutes={minutes}"]) == 2
    assert "expected more than 0 and at most 1440" in capsys.readouterr().err


def test_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "x" in name else name)
    assert gpu.main([]) == 2
    error = capsys.readouterr().err
    assert "pip install 'jax[cuda13]' 'flax' 'optax' 'orbax-checkpoint'" in error


_HIDDEN = """
import importlib.metadata, json, re, sys
from benchmarks.gpu import _NEEDED

def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()

# What pip installs with the packages of `_NEEDED`.
wanted, todo = set(), [canonical(p.split("[")[0]) for p in _NEEDED.values()]
while todo:
    name = todo.pop()
    if name in wanted:
        continue
    wanted.add(name)
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    todo += [canonical(re.match("[A-Za-z0-9._-]+", r)[0]) for r in requires if "extra ==" not in r]
owners = importlib.metadata.packages_distributions()

class Finder:
    def find_spec(self, name, path=None, target=None):
        of = owners.get(name.split(".")[0])
        if of and not wanted & {canonical(o) for o in of} and "dedn-jax" not in of:
            raise ModuleNotFoundError(f"hidden: {name}")

sys.meta_path.insert(0, Finder())
import benchmarks.gpu_device
import tensorboardX
try:
    import tensorflow_datasets
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.slow
def test_needs_no_more_packages() -> None:
    """The parts import under a finder that hides all but what is asked for, and what that needs."""
    command = [sys.executable, "-c", _HIDDEN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hidden: tensorflow_datasets\n"


def test_limits() -> None:
    """Shares of the time by weight; compiling has its own; all of it grows with `--minutes`."""
    weights = [45.0, 80.0, 80.0, 110.0]
    for minutes in (8, 80):
        left, measured = 60.0 * minutes, 0.0
        for i in range(len(weights)):
            measuring, most = gpu.limits(left, weights[i:])
            assert measuring < most <= left + 1e-9
            left, measured = left - measuring - gpu._START, measured + measuring
        assert measured > 0.55 * (60 * minutes - 4 * gpu._START)
    short, long = (gpu.limits(60.0 * m, weights) for m in (8, 80))
    assert long[0] > 10 * short[0]
    # Time that one part did not need is the next one's.
    assert gpu.limits(440.0, weights[1:])[0] > gpu.limits(400.0, weights[1:])[0]
    # A part that compiles as long as it may leaves the others their share.
    assert gpu.limits(480.0 - short[1], weights[1:])[0] > 0.5 * gpu.limits(440.0, weights[1:])[0]
    assert gpu.limits(5.0, weights)[0] == 0


def test_parts_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each in a process of its own; the report is of all that there was time for."""
    about = {"platform": "gpu", "note": "a GPU", "weights": {"machine": 1.0, "sweep": 3.0}}
    calls: list[tuple[list[str], tuple[float, float]]] = []

    def run(names: list[str], out: Path, seconds: tuple[float, float], *_: object) -> list[dict]:
        calls.append((names, seconds))
        return [{"part": names[0], "what": "x", "value": 1.0, "compile_s": 2.0}]

    monkeypatch.setattr(gpu, "found_device", lambda: about)
    monkeypatch.setattr(gpu, "_run_parts", run)
    report = gpu.measure(tmp_path, 8.0, False)
    assert [names for names, _ in calls] == [["machine"], ["sweep"]]
    assert calls[0][1] == pytest.approx(gpu.limits(480.0, [1.0, 3.0]), abs=1.0)
    # The first took no time, so that the second has all of it.
    assert calls[1][1] == pytest.approx(gpu.limits(480.0, [3.0]), abs=1.0)
    assert report["compile_seconds"] == 4.0
    assert "a GPU\n0 s, 4 of them compiling" in (tmp_path / "gpu.txt").read_text()
    report = gpu.measure(tmp_path, 0.3, False)
    assert {row["skipped"] for row in report["rows"]} == {"no time left"}
    assert len(calls) == 2


def test_a_part_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (row,) = gpu._run_parts(["machine"], tmp_path, (20.0, 20.0), True, None)
    assert row["error"] == "ended with status 1: no output"


def test_a_part_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it wrote stays."""
    script = tmp_path / "part"
    row = {"part": "machine", "what": "copy", "value": 1.0}
    (tmp_path / "row").write_text(json.dumps(row) + "\n")
    script.write_text(f"#!/bin/sh\ncp {tmp_path}/row {tmp_path}/machine.jsonl\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    start = time.monotonic()
    rows = gpu._run_parts(["machine"], tmp_path, (1.0, 1.0), True, None)
    assert rows == [row, {"part": "machine", "what": "machine", "error": "ended after 1 s"}]
    assert time.monotonic() - start < 30


def test_where_compiled_programs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    kept = gpu._environment(["machine"], tmp_path, False)
    assert kept["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    kept = gpu._environment(["published"], tmp_path, False)
    assert kept["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert kept["JAX_PLATFORMS"] == "cpu"  # JAX leaves the GPU to PyTorch


def test_errors_and_time_become_rows(tmp_path: Path) -> None:
    def fails() -> None:
        raise ValueError("two\nlines")

    rows = tmp_path / "rows"
    gpu_parts.Part("p", rows, 60, True, None).attempt("a", fails)
    gpu_parts.Part("p", rows, 0, True, None).attempt("b", fails)
    first, second = map(json.loads, rows.read_text().splitlines())
    assert first["error"].startswith("ValueError: two")
    assert second == {"part": "p", "what": "b", "skipped": "no time left", "compile_s": 0}


def test_compiling_takes_none_of_the_time(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    part = gpu_parts.Part("p", rows, 60, True, None)
    start = time.monotonic()
    jax.jit(lambda x: jnp.sort(x * 3.25) @ x)(jnp.arange(7.0)).block_until_ready()
    took = time.monotonic() - start
    part.add("compiled", value=1.0)
    part.add("ran", value=1.0)
    compiled, ran = (json.loads(line)["compile_s"] for line in rows.read_text().splitlines())
    assert 0 < compiled <= took
    assert ran == 0
    assert part.left == pytest.approx(60 - (time.monotonic() - start) + compiled, abs=0.5)


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
