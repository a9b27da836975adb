"""From a folder of one's own classes to a trained model; unseen classes may have no pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.data.load import load_dataset
from dedn_jax.files import read_json
from dedn_jax.inference.run import open_run
from tests.helpers.tiny import ONE_NETWORK_FLAGS
from tests.made_up import picture_folder

FLAGS = [
    "--config=demo",
    "--config.data.format=prepared",
    "--config.data.groups=single",
    "--config.picture.resize=32",
    "--config.picture.crop=32",
    "--config.train.epochs=2",
    "--config.train.batch_size=8",
    *ONE_NETWORK_FLAGS,
]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The two unseen classes have no pictures."""
    root = picture_folder(tmp_path / "mine")
    for k in (6, 7):
        shutil.rmtree(root / "pictures" / f"class {k}")
    return root


def test_unseen_classes_without_pictures(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    assert main(["data", "check", "folder", f"--root={mine}"]) == 0
    assert "36 pictures" in capsys.readouterr().out
    assert main(["data", "build", "folder", f"--root={mine}", f"--out={prepared}"]) == 0
    assert main(["data", "show", f"{prepared}/mine", f"--out={tmp_path}/show"]) == 0
    assert (tmp_path / "show" / "mine" / "page-1.png").stat().st_size > 10_000

    flags = [*FLAGS, f"--config.data.path={prepared}/mine"]
    assert main(["train", *flags, f"--workdir={run}"]) == 0
    out = capsys.readouterr().out
    # Validation classes stand in for the unseen ones; on the test sets only S can be measured.
    assert "Best on validation classes: step" in out
    assert "1 validation class, chosen by the seed; what so few choose may not hold" in out
    assert "fixed bias and mixes; no unseen class has pictures; S in percent:" in out
    assert out.splitlines()[-1].split()[0] == "fused"
    assert out.splitlines()[-1].split()[1::2] == ["-", "-", "-"]
    result = read_json(run / "result.json")
    assert result["classes"] == {"seen": 6, "unseen": 2}
    assert set(result["test"]["fused"]) == {"S"}
    assert set(result["validation"]["fused"]) == {"U", "S", "H", "T1", "AUSUC"}
    # They are chosen among, nevertheless.
    dataset = load_dataset(open_run(run).config)
    np.testing.assert_array_equal(dataset.unseen_classes, [6, 7])
    assert len(dataset.test_unseen) == 0
    assert main(["evaluate", f"--workdir={run}"]) == 0
    refused = [*flags, "--config.selection.protocol=test-best", f"--workdir={tmp_path}/other"]
    assert main(["train", *refused]) == 2
    assert "selects on images of unseen classes" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
