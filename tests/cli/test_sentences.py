"""Sentences in place of attributes, from the archives' files to U, S and H."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.run import open_run
from tests.helpers.tiny import CLASSES, ONE_NETWORK, tiny_overrides, write_tiny
from tests.helpers.xlsa17 import write_apy, write_flo

FLAGS = [
    "--config=demo",
    "--config.data.format=prepared",
    "--config.picture.resize=32",
    "--config.picture.crop=32",
    "--config.train.epochs=2",
    "--config.train.batch_size=4",
    "--config.selection.protocol=last",
    "--config.model.branches=region",
]


@pytest.mark.parametrize("groups", [pytest.param("single", marks=pytest.mark.slow), "clusters:2"])
def test_flo_from_archives_to_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: str
) -> None:
    write_flo(tmp_path / "data")
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    assert main(["data", "build", "FLO", f"--root={tmp_path}/data", f"--out={prepared}"]) == 0
    assert "word vectors: by the values of the 7 dimensions" in capsys.readouterr().out
    flags = [*FLAGS, f"--config.data.path={prepared}/flo", f"--config.data.groups={groups}"]
    flags.append("--config.model.experts=fine")  # the one that has groups
    assert main(["train", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert set(result["test"]["fused"]) == {"U", "S", "H", "T1", "AUSUC"}
    assert result["classes"] == {"seen": 4, "unseen": 1}
    found = open_run(run)
    assert found.dataset.attribute_names[0] == "dimension 0"
    assert len(found.groups.names) == (1 if groups == "single" else 2)
    assert main(["evaluate", f"--workdir={run}"]) == 0
    table = tmp_path / "classes.csv"
    assert main(["predict", f"--workdir={run}", f"--write-classes={table}"]) == 0
    header, *rows = table.read_text().splitlines()
    assert header.startswith("name,dimension 0,") and header.endswith(",dimension 6")
    assert len(rows) == 5


def test_apy_from_archives_to_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_apy(tmp_path / "data")
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    command = ["APY", f"--root={tmp_path}/data"]
    assert main(["data", "check", *command]) == 0
    printed = capsys.readouterr().out
    assert "boxes: 15, 2 of them clipped to their picture" in printed
    assert "\n15 pictures\n" in printed
    assert main(["data", "build", *command, f"--out={prepared}"]) == 0
    assert "boxes: 15, 2 of them clipped to their picture" in capsys.readouterr().out
    flags = [*FLAGS, f"--config.data.path={prepared}/apy", "--config.data.groups=single"]
    flags.append("--config.model.experts=coarse")
    assert main(["train", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert set(result["test"]["fused"]) == {"U", "S", "H", "T1", "AUSUC"}


def test_sentences_in_place_of_attributes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the classes look like, in dimensions without names; a run is fixed by their values."""
    maps = write_tiny(tmp_path / "maps.hdf5")
    with h5py.File(maps) as file:
        attributes = file["att"][...]
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(9, attributes.shape[1])))
    np.save(tmp_path / "a.npy", attributes @ rotation.T)
    np.save(tmp_path / "b.npy", attributes @ rotation.T + 0.01)
    fields = ONE_NETWORK | {"data__groups": "single", "selection__protocol": "last"}
    flags = tiny_overrides(maps, **fields)
    command = ["train", "--config=base", *flags, f"--workdir={tmp_path}/run"]
    sentences = f"--config.data.class_embeddings={tmp_path}"
    assert main([*command, f"{sentences}/a.npy"]) == 0
    run = open_run(tmp_path / "run")
    assert run.dataset.class_embeddings.shape == (CLASSES, 9)
    assert run.dataset.word_vectors.shape == (9, 300)
    assert run.dataset.attribute_names == tuple(f"dimension {d}" for d in range(9))
    # By chance among the eight classes 12.5; the attributes themselves give 100.
    assert run.result is not None
    assert run.result["test"]["fused"]["H"] > 80
    capsys.readouterr()
    assert main([*command, f"{sentences}/b.npy"]) == 2
    assert "another data set (differs in class_embeddings" in capsys.readouterr().err
    (tmp_path / "a.npy").rename(tmp_path / "moved.npy")
    assert main([*command, f"{sentences}/moved.npy"]) == 0
    assert main(["evaluate", f"--workdir={tmp_path}/run"]) == 0
