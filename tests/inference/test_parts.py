"""A finished run of one branch of one expert: metrics, predictions, explanations, exports."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.export.safetensors import export_safetensors, read_safetensors
from dedn_jax.inference.run import open_run
from dedn_jax.training.evaluation import metrics_table
from tests.helpers.picture_runs import PictureRuns


def test_metrics(picture_runs: PictureRuns) -> None:
    """The mixture is the expert that is there; calibration has nothing to mix."""
    run = picture_runs.part
    assert run.evaluate() == run.result["test"]
    for found in (run.result["test"], run.result["test_calibrated"]):
        assert found.keys() == {"fine", "fused"}  # the coarse expert is not there
        assert found["fused"] == found["fine"]
        assert found["fused"]["AUSUC"] > 0
    assert "coarse" not in metrics_table(run.result["test"])
    assert run.calibration is not None
    assert run.calibration.mixing.keys() == {"fine", "fused"}
    fused = run.calibration.mixing["fused"]
    assert (fused.expert_mix, fused.region_mix) == (0.0, 1.0)


def test_predictions(picture_runs: PictureRuns) -> None:
    run = picture_runs.part
    pictures = sorted(picture_runs.folder.glob("class [67]/*.jpg"))
    found = run.predict(pictures, top=8)
    scores = run.picture_scorer.scores(
        np.stack([run.picture_scorer.decode(p) for p in pictures]), run.candidates
    )
    assert not scores.classes.coarse.region.any() and not scores.classes.fine.channel.any()
    expected = scores.classes.fine.region + np.where(
        run.candidates.seen, 0, np.float32(run.mixing().gamma)
    )
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, order, 1), atol=1e-5)


def test_an_explanation(picture_runs: PictureRuns, tmp_path: Path) -> None:
    run, picture = picture_runs.part, picture_runs.folder / "class 6" / "0.jpg"
    found = run.explain(picture)
    assert found.score.total == pytest.approx(found.scores[found.explained], abs=1e-5)
    assert not found.attributes[0].any() and not found.attributes[1, 1].any()
    assert found.attributes[1, 0].all()
    np.testing.assert_allclose(found.region_attention[1].sum((1, 2)), 1, atol=1e-5)
    assert not found.region_attention[0].any() and not found.channel_attention.any()
    work = f"--workdir={run.workdir.path}"
    assert main(["explain", work, str(picture), f"--out={tmp_path / 'out'}"]) == 0
    saved = json.loads((tmp_path / "out" / "0.json").read_text())
    assert saved["explained"] == found.class_name
    assert main(["report", work, f"--out={tmp_path / 'report'}"]) == 0


def test_exports(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parameters there and back; the published code has no such model."""
    run = picture_runs.part
    export_safetensors(run, tmp_path / "model.safetensors")
    again = read_safetensors(open_run(run.workdir.path), tmp_path / "model.safetensors")
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = tmp_path / "model.pt"
    for command in (["export", f"--out={weights}"], ["evaluate", f"--weights={weights}"]):
        assert main([*command, f"--workdir={run.workdir.path}"]) == 2
        printed = capsys.readouterr().err
        assert "config.json: config.model.experts='fine': the published code always" in printed
        assert printed.count("\n") == 1
        assert not weights.exists()
