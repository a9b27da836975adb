"""What a work directory holds is read by later versions."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dedn_jax.config import base_config, load_config
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.training.workdir import Workdir


@pytest.mark.parametrize(("old", "new"), [("always", "replicated"), ("cut", "sharded")])
def test_a_config_with_the_old_names_of_residency(tmp_path: Path, old: str, new: str) -> None:
    saved = base_config().to_dict()
    saved["data"]["on_device"] = old
    write_json(tmp_path / "config.json", saved)
    assert Workdir(tmp_path).load_config().data.on_device == new


def test_a_run_from_before_a_field_was_there(tmp_path: Path) -> None:
    """It had the base's value; another value is another run."""
    saved = base_config().to_dict()
    del saved["train"]["log_every"], saved["loss"]["margin"]
    write_json(tmp_path / "config.json", saved)
    config = base_config()
    Workdir(tmp_path).check_config(config)
    config.loss.margin = 0.5
    with pytest.raises(InputError, match=r"another config \(loss.margin=3.0 there, 0.5 now\)"):
        Workdir(tmp_path).check_config(config)


@pytest.mark.parametrize(
    ("weights", "now"),
    [
        ((0.1, 0.0), {"name": "agreement"}),
        ((0.2, 0.0), {"name": "agreement", "agreement.weight": 0.2}),
        ((0.0, 0.0), {"name": "none"}),
        (
            (0.0, 0.5),
            {"name": "kl", "kl.weight": 0.5, "kl.temperature": 4.0, "kl.stop_gradient": True},
        ),
        (
            (0.1, 0.5),
            {"name": "agreement+kl", "kl.temperature": 4.0, "kl.stop_gradient": True},
        ),
    ],
)
def test_a_run_with_the_weights_that_distillation_had(
    tmp_path: Path, weights: tuple[float, float], now: dict[str, object]
) -> None:
    """The same objective is the same run, another one is not."""
    saved = base_config().to_dict()
    del saved["loss"]["distillation"]
    saved["loss"] |= {"agreement_weight": weights[0], "kl_weight": weights[1]}
    saved["loss"] |= {"kl_temperature": 4.0, "kl_stop_gradient": True}
    write_json(tmp_path / "config.json", saved)
    fields = {f"loss.distillation.{name}": value for name, value in now.items()}
    config = load_config("base", fields)
    assert Workdir(tmp_path).load_config().to_dict() == config.to_dict()
    Workdir(tmp_path).check_config(config)
    config.loss.distillation.name = "js"
    with pytest.raises(InputError, match=r"loss.distillation.name=.* there, 'js' now"):
        Workdir(tmp_path).check_config(config)


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the run can be used from another folder, and resumed with its data elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fields = {
        "data.format": "prepared",
        "data.path": "here/tiny.hdf5",
        "data.class_embeddings": "~/classes.npy",
        "data.word_vectors": "gs://bucket/words.npy",
        "data.features": f"file://{tmp_path}/store",
        "backbone.weights": "package",
    }
    config = load_config("base", fields)
    Workdir("run").claim(config, {"images": 1})
    monkeypatch.chdir("/")
    workdir = Workdir(tmp_path / "run")
    kept = workdir.load_config()
    assert kept.data.path == f"{tmp_path}/here/tiny.hdf5"
    assert kept.data.class_embeddings == f"{tmp_path}/home/classes.npy"
    assert kept.data.word_vectors == "gs://bucket/words.npy"
    assert kept.data.features == f"{tmp_path}/store"
    assert (kept.backbone.weights, kept.teacher.workdir) == ("package", "")
    workdir.claim(config, {"images": 1})  # of another folder now
    assert workdir.load_config().data.path == "/here/tiny.hdf5"


def test_a_run_that_does_not_say_on_which_data(tmp_path: Path) -> None:
    """Any others would be taken for its own."""
    config, workdir = base_config(), Workdir(tmp_path)
    assert workdir.recorded_dataset() is None
    workdir.claim(config, {"images": 1})
    assert workdir.recorded_dataset() == {"images": 1}
    workdir.dataset_file.unlink()
    with pytest.raises(
        InputError, match=r"dataset\.json: missing, so that .* restore the file, or"
    ):
        workdir.claim(config, {"images": 2})
    assert not workdir.dataset_file.exists()


@pytest.mark.parametrize("data", [3, None, {"on_device": []}, {"path": {}}, {"no_such": 1}])
def test_a_damaged_config(tmp_path: Path, data: object) -> None:
    write_json(tmp_path / "config.json", base_config().to_dict() | {"data": data})
    with pytest.raises(InputError, match="not a config of this version"):
        Workdir(tmp_path).load_config()


def test_a_run_on_features_that_recorded_a_backbone_that_is_none(tmp_path: Path) -> None:
    config = base_config()
    saved = config.to_dict()
    saved["backbone"]["name"] = "vgg16"
    write_json(tmp_path / "config.json", saved)
    assert Workdir(tmp_path).load_config().backbone.name == config.backbone.name
    Workdir(tmp_path).check_config(config)
    write_json(tmp_path / "config.json", saved | {"data": {**saved["data"], "source": "images"}})
    with pytest.raises(InputError, match="'vgg16' is no backbone"):
        Workdir(tmp_path).load_config()


def test_a_directory_that_is_another_than_the_one_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an earlier run left a lock file in the folder below a mount."""

    def stale(_: int) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle")

    path, away = tmp_path / "run", tmp_path / "away"
    workdir = Workdir(path)
    gone = f"{path}: not there any more"
    with workdir.locked():
        workdir.check_there()
        path.rename(away)
        with pytest.raises(InputError, match=gone):
            workdir.check_there()
        path.mkdir()
        (path / ".lock").touch()
        with pytest.raises(InputError, match=gone):
            workdir.check_there()
        shutil.rmtree(path)
        away.rename(path)
        workdir.check_there()
        with monkeypatch.context() as patched:
            patched.setattr(os, "fstat", stale)
            with pytest.raises(InputError, match=gone):
                workdir.check_there()

    def train() -> None:
        with workdir.locked():
            path.rename(away)

    with pytest.raises(InputError, match=gone):  # which nothing looked for since
        train()
