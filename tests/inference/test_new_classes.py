"""Classes that are added after training: at the end of the data set's table, or in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.cli import main as cli
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.inference.classes_file import write_classes
from dedn_jax.inference.run import open_run, train
from tests.helpers.tiny import ATTRIBUTES, CLASSES, tiny_config, write_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = write_tiny(folder / "tiny.hdf5")
    train(tiny_config(data, train__epochs=8), folder / "run")
    return folder / "run"


def _table(run: Path, folder: Path, rows: list[np.ndarray]) -> Path:
    """The run's data with another table of classes: so many rows after those that it has."""
    data = shutil.copy(run.parent / "tiny.hdf5", folder / "more.hdf5")
    with h5py.File(data, "a") as file:
        there = file["att"][()]
        del file["att"]
        file["att"] = np.vstack([there, *rows]) if rows else there
    return Path(data)


def _evaluated(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, object], str]:
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1]), printed


def test_a_table_that_has_grown_and_a_file_say_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(run.parent / "tiny.hdf5") as file:
        # A double of an unseen class, a little stronger in all that it has, draws its images.
        rival = file["att"][CLASSES - 1] ** 1.2
    more = _table(run, tmp_path, [rival, np.linspace(0.1, 1, ATTRIBUTES)])
    names = [f"attribute {a}" for a in range(ATTRIBUTES)]
    with h5py.File(more) as file:
        new = file["att"][CLASSES:]
    write_classes(tmp_path / "new.csv", ["a", "b"], new, names)
    command = ["evaluate", f"--workdir={run}"]
    before, _ = _evaluated(command, capsys)
    grown, printed = _evaluated([*command, f"--config.data.path={more}"], capsys)
    assert f"Chosen among {CLASSES + 2} classes, 2 new since training." in printed
    assert grown["new_classes"] == [f"class {CLASSES}", f"class {CLASSES + 1}"]
    scores = tmp_path / "scores.npz"
    given, printed = _evaluated(
        [*command, f"--classes={tmp_path}/new.csv", f"--scores={scores}"], capsys
    )
    assert f"Chosen among {CLASSES + 2} classes, 2 new since training." in printed
    assert given["new_classes"] == ["a", "b"]
    for kind in ("test", "test_calibrated"):
        for expert, metrics in before[kind].items():
            assert given[kind][expert] == pytest.approx(grown[kind][expert], abs=1e-3)
            assert given[kind][expert]["U"] <= metrics["U"] + 1e-6
    assert given["test"]["fused"]["U"] < before["test"]["fused"]["U"]
    with np.load(scores) as saved:
        assert saved["class_names"].tolist()[-2:] == ["a", "b"]
        assert saved["class_ids"].tolist() == list(range(CLASSES + 2))
        assert saved["classes_coarse_region"].shape[1] == CLASSES + 2
        assert saved["seen"].tolist()[-2:] == [False, False]

    python = open_run(run)
    described = {
        name: dict(zip(names, row, strict=True)) for name, row in zip("ab", new, strict=True)
    }
    for classes in (described, tmp_path / "new.csv", python.candidates.with_new(described)):
        assert python.evaluate(classes=classes) == given["test"]
    assert python.evaluate(classes=described, calibrated=True) == given["test_calibrated"]
    with pytest.raises(InputError, match="the run's own classes are not the first to choose among"):
        python.evaluate(classes=python.candidates.with_new(described, only=True))

    opened = open_run(run, {"data.path": more})
    assert opened.candidates.names[-2:] == (f"class {CLASSES}", f"class {CLASSES + 1}")
    assert not opened.candidates.seen[-2:].any()
    assert opened.added_classes == opened.candidates.names[-2:]
    assert opened.scores.classes.fine.channel.shape[1] == CLASSES + 2


def test_another_table_is_another_data_set(run: Path, tmp_path: Path) -> None:
    more = _table(run, tmp_path, [np.ones(ATTRIBUTES)])
    with h5py.File(more, "a") as file:
        file["att"][0, 0] += 0.25
    with pytest.raises(InputError, match=r"another data set \(differs in class_embeddings\)"):
        open_run(run, {"data.path": more}).dataset  # noqa: B018
    zero = _table(run, tmp_path, [np.zeros(ATTRIBUTES)])
    with pytest.raises(InputError, match=r"class 8', which was added .* has no attribute but 0"):
        open_run(run, {"data.path": zero}).evaluate()
    # Training goes on with the classes that it began with.
    other = _table(run, tmp_path, [np.ones(ATTRIBUTES)])
    config = tiny_config(other, train__epochs=8)
    before = read_json(run / "result.json")
    with pytest.raises(InputError, match=r"another data set \(differs in class"):
        train(config, run)
    assert read_json(run / "result.json") == before


def test_flags_that_do_not_go_together(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", f"--workdir={run}", "--attributes=x"]) == 2
    assert "--attributes: names what --classes describes" in capsys.readouterr().err
