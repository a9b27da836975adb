"""Evaluating a finished run: the numbers of its training, other weights, and the file of scores."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.errors import InputError
from dedn_jax.inference.export.published import export_published_weights
from dedn_jax.inference.run import open_run
from dedn_jax.training.metrics import per_class_accuracy
from dedn_jax.training.prediction import Mixing
from tests.training.common import Finished, snapshot


def evaluated(path: Path, *flags: str) -> dict[str, Any]:
    """The report of `dedn evaluate`."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["evaluate", f"--workdir={path}", *flags]) == 0
    report: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return report


def test_evaluate_takes_free_fields_only(finished: Callable[..., Finished]) -> None:
    run = finished("last")
    again = open_run(run.path, ["--config.evaluate.batch_size=3"])
    assert again.evaluate() == run.result["test"]
    for fields, message in (
        (["--config.loss.bias=3"], r"config.loss.bias is fixed .*`dedn evaluate` .*data\.path"),
        (["--config.los.bias=2"], r"unknown field config\.los\.bias; known fields: loss\.bias"),
        (["--config.train.epochs=3"], r"config.train.epochs is fixed for this run; .*data\.path"),
    ):
        with pytest.raises(InputError, match=message):
            open_run(run.path, fields)


def test_changed_prediction_fields_are_said(
    finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("validation")
    before = snapshot(run.path)
    assert "changed" not in evaluated(run.path, f"--config.loss.bias={run.config.loss.bias}")
    report = evaluated(run.path, "--config.loss.bias=50", "--config.predict.expert_mix=0")
    assert report["changed"] == {
        "loss.bias": {"now": 50.0, "run": 1.0},
        "predict.expert_mix": {"now": 0.0, "run": 0.9},
    }
    assert report["test"]["fused"]["S"] == 0  # every image goes to an unseen class
    assert report["test"]["fused"]["U"] == report["test"]["fine"]["U"]  # the fine expert alone
    assert report["test"]["fused"]["AUSUC"] == run.result["test"]["fine"]["AUSUC"]
    # The calibrated numbers have a gamma and mixes of their own.
    assert report["test_calibrated"] == run.result["test_calibrated"]
    assert main(["evaluate", f"--workdir={run.path}", "--config.predict.region_mix=1"]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert "not the run's result: changed predict.region_mix=1.0 (the run: 0.8)" in said
    assert main(["evaluate", f"--workdir={run.path}", "--config.predict.region_mix=2"]) == 2
    assert "expected a number from 0 to 1" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={run.path}", "--config.loss.margin=2"]) == 2
    assert "config.loss.margin is fixed for this run" in capsys.readouterr().err
    assert snapshot(run.path) == before


def test_an_older_config_is_filled_up(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """A field that came later is taken as the base has it; a strange one is named."""
    path = tmp_path / "run"
    shutil.copytree(finished("last").path, path)
    config = json.loads((path / "config.json").read_text())
    del config["loss"]["distillation"], config["selection"]["mix_step"]
    (path / "config.json").write_text(json.dumps(config))
    assert open_run(path).evaluate() == finished("last").result["test"]
    config["loss"]["strange"] = 1
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config.json: not a config of this version: .*strange"):
        open_run(path)


def test_evaluate_gives_the_trainings_numbers(
    finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    for protocol in ("validation", "test-best"):
        run = finished(protocol)
        reports = [evaluated(run.path)]
        reports += [evaluated(run.path, f"--batch-size={size}") for size in (1, 7, 1000)]
        for report in reports:
            expected = {
                "protocol": protocol,
                "weights": "selected",
                "images": 6 * 4 + 2 * 12,
                "test": run.result["test"],
            }
            if protocol == "validation":
                expected["test_calibrated"] = run.result["test_calibrated"]
            assert report == expected
    huge = f"--batch-size={10**12}"  # memory for that many images is not there
    assert main(["evaluate", f"--workdir={finished('last').path}", huge]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={finished('last').path}", "--batch-size=0"]) == 2
    assert "--batch-size=0, expected at least 1" in capsys.readouterr().err


def test_evaluate_needs_a_finished_run(
    finished: Callable[..., Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("last")
    for name in ("config.json", "dataset.json"):
        shutil.copy(run.path / name, tmp_path / name)
    with pytest.raises(InputError, match="the run is not finished"):
        open_run(tmp_path).evaluate()
    for size, expected in ((0, "at least 1"), (-1, "at least 1"), ("3", "a whole number of")):
        with pytest.raises(InputError, match=rf"batch_size={size!r}, expected {expected}"):
            open_run(run.path).evaluate(batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"result.json: missing, the run is not finished; train"):
        _ = open_run(tmp_path).result
    assert main(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "result.json: missing" in capsys.readouterr().err  # before any work


@pytest.mark.torch
def test_exported_weights_evaluate_alike(finished: Callable[..., Finished], tmp_path: Path) -> None:
    import torch

    run = finished("validation")
    file = tmp_path / "model.pt"
    export_published_weights(open_run(run.path), file)
    report = evaluated(run.path, f"--weights={file}")
    assert report["protocol"] == "given weights"
    assert report["weights"] == str(file)
    assert report["test"] == run.result["test"]
    # It is the file that was evaluated: without its region scores little is left.
    state = torch.load(file, weights_only=True)
    for name in state:
        if name.endswith(("H_1", "H_3")):
            state[name] = -state[name]
    torch.save(state, file)
    worse = evaluated(run.path, f"--weights={file}")["test"]["fused"]["S"]
    assert worse < run.result["test"]["fused"]["S"] - 20


def test_scores_file(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """`dedn evaluate --scores`: mixed by hand as the config says, they give the same U and S."""
    run, file = finished("validation"), tmp_path / "scores.npz"
    evaluated(run.path, f"--scores={file}")
    with np.load(file) as saved:
        scores = dict(saved)
    mixing = Mixing.from_config(run.config)
    m, e = mixing.region_mix, mixing.expert_mix
    coarse, fine = (
        m * scores[f"classes_{x}_region"] + (1 - m) * scores[f"classes_{x}_channel"]
        for x in ("coarse", "fine")
    )
    chosen = (e * coarse + (1 - e) * fine + mixing.gamma * ~scores["seen"]).argmax(1)
    labels = scores["labels"]
    unseen = ~scores["seen"][labels]
    fused = run.result["test"]["fused"]
    assert per_class_accuracy(chosen[unseen], labels[unseen]) == pytest.approx(fused["U"])
    assert per_class_accuracy(chosen[~unseen], labels[~unseen]) == pytest.approx(fused["S"])
    assert scores["attributes_fine_channel"].shape == (6 * 4 + 2 * 12, 6)
    assert scores["class_names"][scores["class_ids"]].tolist() == [f"class {k}" for k in range(8)]


def test_scores_file_with_another_suffix(
    finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("last")
    assert main(["evaluate", f"--workdir={run.path}", "--scores=scores.csv"]) == 2
    assert "scores.csv: expected a name that ends in .npz" in capsys.readouterr().err
