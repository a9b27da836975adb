"""Checkpoints that were damaged: the one before goes on, and nothing else is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.cli import main as cli
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.inference.run import open_run, train
from dedn_jax.training.checkpoint import checksum
from dedn_jax.training.logs import read_lines
from tests.helpers.damage import cut, flip
from tests.helpers.tiny import ONE_NETWORK, arrays, tiny_config, tiny_overrides
from tests.launch.common import ROOT, launch, write_program
from tests.training.common import DieAfter, Finished

LAST = ONE_NETWORK | {"selection__protocol": "last"}


def _other_sum(checkpoint: Path) -> None:
    """As a flipped bit in a large array: TensorStore has no checksum of those."""
    file = checkpoint / "position" / "metadata"
    write_json(file, read_json(file) | {"crc32": 1})


def _other_step(checkpoint: Path) -> None:
    file = checkpoint / "position" / "metadata"
    write_json(file, read_json(file) | {"step": 44})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda c: cut(c / "state"),
    "flipped": lambda c: flip(c / "selected"),
    "no position": lambda c: (c / "position" / "metadata").write_bytes(b"[1]"),
    "other values": _other_sum,
    "another step": _other_step,
}


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its checkpoints of steps 20 and 40."""
    path = tmp_path_factory.mktemp("killed") / "run"
    config = tiny_config(data, **LAST)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, path, stop=DieAfter(50))
    assert _steps(path) == [20, 40]
    return path


def _steps(run: Path) -> list[int]:
    return sorted(int(p.name) for p in (run / "final" / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint(
    damage: str,
    killed: Path,
    data: Path,
    finished: Callable[..., Finished],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    DAMAGES[damage](run / "final" / "checkpoints" / "40")
    flags = tiny_overrides(data, **LAST)
    assert cli.main(["train", "--config=base", f"--workdir={run}", *flags]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "dedn: " in line]
    assert len(said) == 1
    assert f"{run}/final/checkpoints/40: damaged (" in said[0]
    assert said[0].endswith("going on from the checkpoint before it")
    undisturbed = finished("last", **ONE_NETWORK)
    assert read_json(run / "result.json") == undisturbed.result
    found, wanted = arrays(run), arrays(undisturbed.path)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert read_lines(run / "metrics.jsonl") == undisturbed.lines
    last = undisturbed.result["steps"]
    assert _steps(run)[-1] == last


def test_all_are_damaged(
    killed: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is removed: it may be the config, or this version, that is wrong."""
    run = shutil.copytree(killed, tmp_path / "run")
    for step in ("20", "40"):
        cut(run / "final" / "checkpoints" / step / "state")
    flags = tiny_overrides(data, **LAST)
    assert cli.main(["train", "--config=base", f"--workdir={run}", *flags]) == 2
    printed = capfd.readouterr().err
    assert [line for line in printed.splitlines() if line.startswith("dedn: ")] == [
        printed.splitlines()[-1]
    ]
    assert f"{run}/final/checkpoints/40: cannot be restored (" in printed
    assert "nor can any before it; was it trained with this version, config" in printed
    assert "Traceback" not in printed
    assert _steps(run) == [20, 40]
    shutil.rmtree(run / "final" / "checkpoints")  # as the message says
    assert cli.main(["train", "--config=base", f"--workdir={run}", *flags]) == 0


@pytest.mark.slow
def test_resume_sh_spends_no_start_on_it(
    killed: Path, data: Path, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """The start that finds the damage goes on; where nothing can go on, there is no other."""
    run = shutil.copytree(killed, tmp_path / "run")
    newest, before = (run / "final" / "checkpoints" / step for step in ("40", "20"))
    cut(newest / "state")
    program = (
        f'#!/bin/sh\necho start >> {tmp_path}/starts\nexec {sys.executable} -m dedn_jax "$@"\n'
    )
    write_program(tmp_path / "dedn", program)
    flags = ["--config=base", f"--workdir={run}", *tiny_overrides(data, **LAST)]

    def resume() -> subprocess.CompletedProcess[str]:
        return launch(
            *("resume.sh", "--crashes", "--", *flags),
            fakes=tmp_path,
            seconds=300,
            PYTHONPATH=str(ROOT),
            JAX_PLATFORMS="cpu",
        )

    done = resume()
    assert done.returncode == 0, done.stderr
    assert f"dedn: {newest}: damaged (" in done.stderr
    assert "resume.sh: " not in done.stderr
    assert read_json(run / "result.json") == finished("last", **ONE_NETWORK).result
    shutil.rmtree(run)
    shutil.copytree(killed, run)
    for checkpoint in (newest, before):
        cut(checkpoint / "state")
    done = resume()
    assert done.returncode == 2
    assert f"dedn: {newest}: cannot be restored (" in done.stderr
    assert (tmp_path / "starts").read_text() == "start\n" * 2


def test_damaged_parameters_are_taken_from_the_last_checkpoint_again(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    whole = finished("validation", **ONE_NETWORK)
    run = shutil.copytree(whole.path, tmp_path / "run")
    saved = run / "final" / "selected" / "checksum.json"
    assert read_json(saved)["crc32"] == checksum(open_run(run).params)
    write_json(saved, {"crc32": 1})
    with pytest.raises(InputError, match="values have changed since they were written") as caught:
        open_run(run).params  # noqa: B018
    removed = (run / "result.json", run / "final" / "result.json")
    for path in removed:
        assert f"{path}" in str(caught.value)
        path.unlink()
    again = train(whole.config, run)
    assert again.result == whole.result
    for found, wanted in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(open_run(whole.path).params), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    saved.unlink()  # as of an older version
    assert open_run(run).evaluate() == whole.result["test"]
