"""A work directory: which runs may continue in it, and what stays unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.inference.report.facts import facts_of
from dedn_jax.inference.run import open_run, train
from dedn_jax.training.workdir import Workdir
from tests.helpers.published import ARGUMENTS
from tests.helpers.tiny import ONE_NETWORK, light_config, tiny_config, write_tiny
from tests.training.common import Finished, snapshot


def test_a_finished_run_is_left_as_it_is(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    """Training again gives the same result without training; free fields may differ."""
    run = finished("validation")
    moved = shutil.copy(data, tmp_path / "moved.hdf5")
    before = snapshot(run.path)
    fields = {"train__log_every": 1, "train__checkpoint_every": 1, "train__checkpoints_kept": 3}
    again = train(tiny_config(Path(moved), **fields), run.path)
    assert again.result == run.result
    # The config keeps the free fields as they are now: the data may have moved.
    assert open_run(run.path).evaluate() == run.result["test"]
    after = snapshot(run.path)
    kept = before.keys() - {"config.json"}
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}
    train(run.config, run.path)
    assert snapshot(run.path)["config.json"][0] == before["config.json"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, r"another config \(seed=0 there, 1 now\)"),
        ({"train__epochs": 19}, r"another config \(train.epochs=20 there, 19 now\)"),
        (
            {"selection__protocol": "last", "loss__bias": 2.0},
            r"loss.bias=1.0 there, 2.0 now; selection.protocol='validation' there, 'last' now",
        ),
    ],
)
def test_another_config_is_refused(
    finished: Callable[..., Finished], data: Path, fields: dict[str, object], message: str
) -> None:
    run = finished("validation")
    before = snapshot(run.path)
    with pytest.raises(InputError, match=message):
        train(tiny_config(data, **fields), run.path)
    assert snapshot(run.path) == before


def test_another_data_set_is_refused(finished: Callable[..., Finished], tmp_path: Path) -> None:
    run = finished("validation")
    before = snapshot(run.path)
    other = tiny_config(write_tiny(tmp_path / "other.hdf5", seed=1))
    with pytest.raises(InputError, match=r"another data set \(differs in .*feature_sample"):
        train(other, run.path)
    # An evaluation looks as well: the file may have been changed under the run.
    with pytest.raises(InputError, match=r"a run on another data set \(differs in"):
        open_run(run.path, dataset=load_dataset(other)).evaluate()
    assert snapshot(run.path) == before


def test_a_run_on_arrays_is_given_them_again(data: Path, tmp_path: Path) -> None:
    """It keeps no path: that of the recipe is of a file that was never read."""
    with h5py.File(data) as file:
        arrays = {name: file[field][...] for name, field in ARGUMENTS.items()}
        maps = file["feature_map"][...]
    dataset = GZSLDataset.from_arrays(features=maps, **arrays, source="my birds")
    config = tiny_config(data, train__epochs=1, selection__protocol="last", **ONE_NETWORK)
    run = train(config, tmp_path / "run", dataset=dataset)
    assert facts_of(run).dataset == "my birds"
    assert repr(run) == f"<Run {tmp_path}/run: finished>"
    assert repr(dataset) == (
        "<GZSLDataset my birds: 96 images, 6 seen and 2 unseen classes, 6 attributes>"
    )
    assert config.data.path == str(data)
    with pytest.raises(InputError, match=r"run: trained on arrays, .*open_run\(\.\.\., dataset="):
        open_run(run.workdir.path).evaluate()
    for again in (
        open_run(run.workdir.path, dataset=dataset),
        open_run(run.workdir.path, {"data.path": data}),
    ):
        assert again.evaluate() == run.result["test"]
    assert train(config, run.workdir.path, dataset=dataset).result == run.result


def test_features_that_changed_under_a_run(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    """A third of the images, none of them sampled, as another extraction may leave them."""
    run = finished("validation")
    other = Path(shutil.copy(data, tmp_path / "other.hdf5"))
    with h5py.File(other, "a") as file:
        images = len(file["labels"])
        sampled = set(np.linspace(0, images - 1, 64).astype(int).tolist())
        changed = sorted(set(range(images)) - sampled)
        assert len(changed) == 32
        for image in changed:
            file["feature_map"][image] = file["feature_map"][image] * 1.01
    with pytest.raises(InputError, match=r"another data set \(differs in features\)"):
        train(tiny_config(other), run.path)
    # The same values in another file, cut into other chunks, are the same data.
    with h5py.File(data) as file, h5py.File(tmp_path / "same.hdf5", "w") as same:
        for name in file:
            same[name] = file[name][()]
        del same["feature_map"]
        maps = file["feature_map"][()]
        same.create_dataset("feature_map", data=maps, chunks=(5, 3, 1, 1), compression="gzip")
    assert train(tiny_config(tmp_path / "same.hdf5"), run.path).result == run.result


def test_foreign_directories_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"full is not empty and holds no run; choose another"):
        train(tiny_config(data), tmp_path / "full")
    with pytest.raises(InputError, match=r"thesis.tex is a file, expected a directory"):
        train(tiny_config(data), tmp_path / "full" / "thesis.tex")
    with pytest.raises(InputError, match=r"full holds no run \(no config.json\)"):
        open_run(tmp_path / "full")
    assert snapshot(tmp_path) == before


def test_killed_while_claiming_the_directory(data: Path, tmp_path: Path) -> None:
    """A run that died before its first two files were both there can be started again."""
    config = light_config(data, selection__protocol="last", train__epochs=1)
    path = tmp_path / "run"
    path.mkdir()
    for leftover in (".dataset.json.abc", ".config.json.abc"):
        (path / leftover).write_text("{")
    write_json(path / "dataset.json", load_dataset(config).fingerprint())
    result = train(config, path).result
    assert result["steps"] == 4
    assert train(config, path).result == result
    # Beside anything else they are no sign of a run.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset.json").write_text('{"images": 3}')
    with pytest.raises(InputError, match="another data set"):  # somebody else's file
        train(config, tmp_path / "other")
    assert (tmp_path / "other" / "dataset.json").read_text() == '{"images": 3}'
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        train(config, tmp_path / "other")


def test_one_process_at_a_time(data: Path, tmp_path: Path) -> None:
    config = light_config(data, selection__protocol="last", train__epochs=1)
    with (
        Workdir(tmp_path / "run").locked(),
        pytest.raises(InputError, match="another process trains in"),
    ):
        train(config, tmp_path / "run")
    assert train(config, tmp_path / "run").result["steps"] == 4


def test_the_outline_is_that_of_the_runs_data(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """Names and embeddings of another data set are refused before any feature map is read."""
    run = finished("last")
    other = write_tiny(tmp_path / "other.hdf5", unseen=5)
    with pytest.raises(InputError, match=r"another data set \(differs in class_embeddings\)"):
        _ = open_run(run.path, {"data.path": other}).outline
