"""Extraction of features, and training from pictures or from these features."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.cli.main import main
from dedn_jax.config import load_config
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.errors import InputError
from dedn_jax.inference.export.published import export_published_weights
from dedn_jax.inference.extract import extract_features
from dedn_jax.inference.run import open_run, train
from dedn_jax.progress import note
from dedn_jax.torch_files import read_state_dict
from dedn_jax.training.logs import read_lines
from tests.helpers.devices import process_flags
from tests.helpers.forks import Forked
from tests.helpers.picture_runs import SIDE, PictureRuns
from tests.made_up import BACKBONE, CHANNELS, backbone_weights


@pytest.fixture
def prepared(picture_runs: PictureRuns) -> Path:
    return picture_runs.prepared


@pytest.fixture
def weights(picture_runs: PictureRuns) -> Path:
    return picture_runs.weights


@pytest.fixture
def store(picture_runs: PictureRuns) -> Path:
    return Path(picture_runs.store.config.data.features)


def flags(prepared: Path, weights: Path) -> list[str]:
    return [
        "--config.data.format=prepared",
        f"--config.data.path={prepared}",
        "--config.data.groups=single",
        f"--config.backbone.name={BACKBONE}",
        f"--config.backbone.weights={weights}",
        f"--config.picture.resize={SIDE}",
        f"--config.picture.crop={SIDE}",
        "--config.evaluate.batch_size=5",
    ]


def images_config(prepared: Path, weights: Path, *more: str) -> ConfigDict:
    return load_config("base", [*flags(prepared, weights), "--config.data.source=images", *more])


def store_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_store_holds_what_the_backbone_makes(prepared: Path, store: Path) -> None:
    found = open_store(store)
    assert found.manifest.images == 48
    assert (found.manifest.channels, found.manifest.grid) == (CHANNELS, (2, 2))
    assert found.manifest.transform == {"resize": SIDE, "crop": SIDE}
    assert found.manifest.backbone is not None
    assert found.manifest.backbone["name"] == BACKBONE
    maps = found.features()[np.arange(48)]
    np.testing.assert_allclose(np.linalg.norm(maps, axis=1), 1.0, atol=1e-5)
    assert len(np.unique(maps.reshape(48, -1).round(4), axis=0)) == 48  # all pictures differ


def test_pictures_and_features_give_the_same_losses(picture_runs: PictureRuns) -> None:
    """Frozen backbone, no augmentation, float32: the must-have is 1e-3."""
    runs = picture_runs.images, picture_runs.store
    pictures, features = (read_lines(run.workdir.metrics_file) for run in runs)
    assert len(pictures) == len(features) >= 10
    for a, b in zip(pictures, features, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
    # Frozen: only the experts are in the checkpoint and in the export.
    assert set(picture_runs.images.network.params) == {"experts"}


@pytest.mark.torch
def test_a_run_on_pictures_exports_its_experts(picture_runs: PictureRuns, tmp_path: Path) -> None:
    export_published_weights(picture_runs.images, tmp_path / "run.pt")
    assert {name.split(".")[0] for name in read_state_dict(tmp_path / "run.pt")} > {"GNet"}


def test_a_store_of_another_kind_is_refused(
    prepared: Path, weights: Path, store: Path, tmp_path: Path
) -> None:
    config = images_config(prepared, weights)
    config.picture.crop = 32
    with pytest.raises(InputError, match=r"transform.crop=64, expected 32"):
        extract_features(config, store, dtype="float32", normalized=True)
    other = backbone_weights(tmp_path / "other.safetensors", seed=1)
    overrides = [*flags(prepared, other), f"--config.data.features={store}"]
    with pytest.raises(InputError, match=r"another backbone \(backbone.sha256="):
        train(load_config("base", overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_nobody_said_is_as_the_store_was_made(
    prepared: Path, weights: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line; what is said and contradicts the store is refused."""
    command = [
        *("train", "--config=own_classes", f"--workdir={tmp_path}/run"),
        *(f"--config.data.path={prepared}", f"--config.data.features={store}"),
        *("--config.data.groups=single", "--config.train.epochs=1"),
        *("--config.train.batch_size=8", "--config.selection.protocol=last"),
    ]
    assert main([*command, "--config.picture.crop=32"]) == 2
    assert "transform.crop=64, expected 32" in capsys.readouterr().err
    other = [*command, "--config.backbone.name=resnet34", "--config.backbone.weights="]
    assert main(other) == 2
    assert f'backbone.name="{BACKBONE}", expected "resnet34"' in capsys.readouterr().err
    note.cache_clear()
    assert main(command) == 0
    said = f"backbone.name={BACKBONE}, picture.resize=64, picture.crop=64"
    assert capsys.readouterr().err.startswith(f"dedn: as {store} was made: {said}\n")
    kept = open_run(tmp_path / "run").config
    assert (kept.backbone.name, kept.backbone.weights) == (BACKBONE, "")
    assert (kept.picture.resize, kept.picture.crop) == (SIDE, SIDE)


def test_weights_of_a_run_are_checked(picture_runs: PictureRuns, tmp_path: Path) -> None:
    folder = picture_runs.images.workdir.path
    other = backbone_weights(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match="differs in backbone_weights"):
        _ = open_run(folder, [f"--config.backbone.weights={other}"]).network
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(picture_runs.weights.read_bytes())
    _ = open_run(folder, [f"--config.backbone.weights={moved}"]).network


def test_fine_tuning_changes_the_backbone_but_not_its_statistics(picture_runs: PictureRuns) -> None:
    run = picture_runs.tuned
    result = run.result
    assert set(result["test"]["fused"]) == {"U", "S", "H", "T1", "AUSUC"}
    trained = run.params
    before = run.network.params["backbone"]["stem"]["kernel"][...]
    after = trained["backbone"]["stem"]["kernel"][...]
    change = float(np.abs(np.asarray(after) - np.asarray(before)).max())
    assert 0 < change < 0.1
    assert "mean" not in trained["backbone"]["stem"]


_EXTRACT = "from dedn_jax.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


def start(prepared: Path, weights: Path, out: Path, *more: str) -> Forked:
    command = ["-c", _EXTRACT, "features", "extract", "--config=base", f"--out={out}"]
    command += ["--dtype=bfloat16", "--shard-images=7", *flags(prepared, weights), *more]
    return Forked(*command)


@pytest.fixture(scope="module")
def whole(picture_runs: PictureRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that one process made, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "store"
    assert start(picture_runs.prepared, picture_runs.weights, out).wait() == 0
    found = store_files(out)
    assert len(found) == 2 + 7
    return found


def test_killed_and_resumed(
    prepared: Path, weights: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Kills at random moments of the work; the store is the same to the byte."""
    rng = np.random.default_rng(int(os.environ.get("DEDN_KILL_SEED", "0")))
    out = tmp_path / "killed"
    for _ in range(int(os.environ.get("DEDN_KILLS", "2"))):
        process = start(prepared, weights, out)
        wanted = len(shards(out)) + rng.integers(0, 4)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and len(shards(out)) >= wanted:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
    assert start(prepared, weights, out).wait() == 0
    assert store_files(out) == whole


def shards(out: Path) -> list[Path]:
    return list(out.glob("shard-*"))


def test_two_processes_make_the_same_store(
    prepared: Path, weights: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "store"
    both = [start(prepared, weights, out, *own) for own in process_flags(2)]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert store_files(out) == whole


def test_images_in_no_split(prepared: Path, weights: Path, store: Path, tmp_path: Path) -> None:
    """Their pictures are not stored, and their feature maps are zeros; the others' as ever."""
    whole = open_prepared(prepared)
    pictures = [Picture(f"{i}.jpg", encoded=whole.pictures[i][0]) for i in range(48)]
    annotations = whole.annotations
    left_out = np.array([int(annotations.trainval[0]), int(annotations.test_unseen[-1])])
    fewer = {
        name: np.setdiff1d(getattr(annotations, name), left_out)
        for name in ("trainval", "test_seen", "test_unseen")
    }
    changed = dataclasses.replace(annotations, **fewer)
    folder = build(PictureSet("fewer", changed, pictures), tmp_path).folder
    config = images_config(folder, weights)
    out = extract_features(config, tmp_path / "store", dtype="float32", normalized=True)
    found, before = (open_store(path).features()[np.arange(48)] for path in (out, store))
    assert not found[left_out].any()
    others = np.setdiff1d(np.arange(48), left_out)
    np.testing.assert_array_equal(found[others], before[others])
