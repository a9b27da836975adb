"""`starts/N/environment.json`: what each start of a run was computed with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax import __version__
from dedn_jax.files import read_json
from dedn_jax.training.environment import environment, record_start, started


def test_every_start_has_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dedn", "train", "--config=base"])
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    first = record_start(tmp_path)
    assert record_start(tmp_path) == first
    assert started(tmp_path) == [1, 2]
    records = [read_json(tmp_path / "starts" / n / "environment.json") for n in ("1", "2")]
    assert [r["start"] for r in records] == [1, 2]
    assert records[0]["time"] == first < records[1]["time"]
    assert records[1]["command"] == ["dedn", "train", "--config=base"]
    assert records[1]["versions"]["dedn-jax"] == __version__
    assert records[1]["versions"]["numpy"] == np.__version__
    assert records[1]["processes"] == 1
    assert records[1]["devices"]["count"] == jax.device_count()
    assert "XLA_FLAGS" in records[1]["settings"]
    assert not any("SECRET" in name for name in records[1]["settings"])


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    first = record_start(tmp_path)
    second = record_start(tmp_path)
    assert second == first
    (tmp_path / "starts/1/environment.json").write_text('{"time": "long ago"}')
    again = record_start(tmp_path)
    assert again == read_json(tmp_path / "starts/2/environment.json")["time"] > first
    (tmp_path / "starts" / "notes").mkdir()
    assert started(tmp_path) == [1, 2, 3]


def test_a_record_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "starts").write_text("a file")
    assert record_start(tmp_path) > 1.7e9
    assert "starts: this start is not recorded (" in capsys.readouterr().err


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedn_jax.training.environment._ROOT", tmp_path)
    assert "commit" not in environment(1.7e9)  # installed from a package
    if not shutil.which("git"):
        pytest.skip("no git")
    (tmp_path / ".git").mkdir()
    assert "commit" not in environment(1.7e9)  # damaged
    (tmp_path / ".git").rmdir()
    (tmp_path / "dedn_jax").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "dedn_jax" / "a.py").touch()
    (tmp_path / "configs" / "b.py").touch()
    who = "-c user.name=x -c user.email=x"
    commands = f"git init -q && git add . && git {who} commit -q -m x"
    subprocess.run(["bash", "-c", commands], cwd=tmp_path, check=True)
    commit = environment(1.7e9)["commit"]
    assert len(commit) == 40
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    os.utime(tmp_path / "configs" / "b.py", (1e9, 1e9))  # `git status` would note it in the index
    assert environment(1.7e9)["commit"] == commit
    assert index.read_bytes() == before
    (tmp_path / "dedn_jax" / "a.py").write_text("changed")
    assert environment(1.7e9)["commit"] == f"{commit}+"
