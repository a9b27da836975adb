"""Nothing is written or read through links that lead out of a work directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from tests.helpers.tiny import ONE_NETWORK, tiny_overrides, write_tiny

NAMES = ("tensorboard", "final", ".lock", "metrics.jsonl", "config.json", "final/checkpoints")


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"),
        **ONE_NETWORK,
        selection__protocol="last",
        train__epochs=1,
    )
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    command = ["train", "--config=base", f"--workdir={run}", *flags]
    assert main(command) == 0
    path = run / name
    if path.is_dir():
        shutil.move(path, other / "moved")
    else:
        path.rename(other / "moved")
    path.symlink_to(other / "moved")
    (run / "result.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in other.rglob("*")}
    for again in (command, ["evaluate", f"--workdir={run}"]):
        capfd.readouterr()
        assert main(again) == 2
        assert capfd.readouterr().err == (
            f"dedn: {path}: a link out of {run}; replace it by what it links to\n"
        )
    assert {p: p.stat().st_mtime_ns for p in other.rglob("*")} == before
    assert os.path.islink(path)
