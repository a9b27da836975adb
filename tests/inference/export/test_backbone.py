"""A trained backbone leaves its run as a file, and features by it are those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from dedn_jax.cli.main import main
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.errors import InputError
from dedn_jax.inference.export.backbone import export_backbone
from dedn_jax.inference.export.left_out import left_out
from dedn_jax.inference.export.published import export_published_weights, read_published_weights
from dedn_jax.inference.export.safetensors import export_safetensors, read_safetensors
from dedn_jax.inference.run import Run, train
from tests.helpers.picture_runs import PictureRuns
from tests.made_up import BACKBONE


def assert_same(found: object, expected: object) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def extracted(run: Run, weights: Path, folder: Path) -> Path:
    """A store by the command, with the run's pictures and an exported backbone."""
    config = run.config
    flags = {
        "data.format": "prepared",
        "data.path": config.data.path,
        "backbone.name": config.backbone.name,
        "backbone.weights": weights,
        "picture.resize": config.picture.resize,
        "picture.crop": config.picture.crop,
        "evaluate.batch_size": 5,
    }
    overrides = [f"--config.{name}={value}" for name, value in flags.items()]
    command = ["features", "extract", "--config=base", f"--out={folder}", "--dtype=float32"]
    assert main([*command, *overrides]) == 0
    return folder


def test_features_are_those_of_the_run(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = picture_runs.small, tmp_path / "backbone.safetensors"
    work = f"--workdir={run.workdir.path}"
    assert main(["export", work, "--format=backbone", f"--out={file}"]) == 0
    assert "Not in it: both experts" in capsys.readouterr().out
    with safe_open(file, "np") as opened:
        about = opened.metadata()
    assert json.loads(about["backbone"]) == {
        "name": "small",
        "dtype": "float32",
        "class_token": False,
    }
    store = open_store(extracted(run, file, tmp_path / "store"))
    images = np.arange(8)
    expected = run.model.maps(run.dataset.inputs[images])
    np.testing.assert_allclose(store.features()[images], expected, atol=1e-5)
    # And experts are trained on them.
    config = run.config.copy_and_resolve_references()
    config.update({"data": {"source": "features", "features": str(store.path)}})
    config.backbone.update({"trained": False, "weights": str(file)})
    config.selection.protocol = "last"
    assert 0 <= train(config, tmp_path / "run").result["test"]["fused"]["H"] <= 100


def test_only_of_a_run_that_trained_one(picture_runs: PictureRuns, tmp_path: Path) -> None:
    for run, what in (
        (picture_runs.images, f"{BACKBONE}.safetensors"),
        (picture_runs.store, "take"),
    ):
        with pytest.raises(InputError, match=f"the run trained no backbone .*{what}"):
            export_backbone(run, tmp_path / "backbone.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.torch
def test_a_published_file_says_what_it_lacks(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = picture_runs.small, tmp_path / "own.pt"
    work = f"--workdir={run.workdir.path}"
    assert main(["export", work, f"--out={file}"]) == 0
    printed = capsys.readouterr().out
    assert "Not in it: the backbone, which the run trained" in printed
    assert "--format=backbone" in printed
    assert "Not in it: the calibrated gamma" in printed
    assert_same(read_published_weights(run, file), run.params)
    assert main(["evaluate", work, f"--weights={file}"]) == 0
    printed = capsys.readouterr().out
    assert "has no backbone: evaluated with the one that the run trained" in printed
    assert json.loads(printed.splitlines()[-1])["test"] == run.result["test"]


@pytest.mark.torch
def test_a_frozen_backbone_is_named(picture_runs: PictureRuns, tmp_path: Path) -> None:
    run = picture_runs.images
    export_published_weights(run, tmp_path / "own.pt")
    (line,) = left_out(run, "published")
    assert f"{BACKBONE} as it was" in line and run.network.weights.sha256 in line
    assert left_out(run, "stablehlo") == []
    assert "of SHA-256" in left_out(picture_runs.store, "safetensors")[0]


@pytest.mark.slow
def test_statistics_go_along_with_a_trained_backbone(
    picture_runs: PictureRuns, tmp_path: Path
) -> None:
    run = picture_runs.tuned
    file = tmp_path / "model.safetensors"
    export_safetensors(run, file)
    with safe_open(file, "np") as opened:
        assert "backbone.stem.variance" in opened.keys()  # noqa: SIM118
        assert json.loads(opened.metadata()["expert_mix"]) == run.mixing().expert_mix
    assert left_out(run, "safetensors") == []
    assert_same(read_safetensors(run, file), run.params)
    export_backbone(run, tmp_path / "backbone.safetensors")
    with safe_open(tmp_path / "backbone.safetensors", "np") as opened:
        assert opened.get_slice("conv_dw_1/depthwise_kernel").get_shape() == [3, 3, 32, 1]
