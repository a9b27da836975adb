"""Calibration: against a search over everything, frozen in the result, applied once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.run import open_run, train
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.calibration import Calibration, calibrate, curve, mixed_metrics
from dedn_jax.training.evaluation import EXPERTS
from dedn_jax.training.metrics import harmonic_mean
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.saved_kinds import CALIBRATION
from dedn_jax.training.scores import Branches, Scores
from tests.helpers.tiny import tiny_config
from tests.training.common import Finished

FIXED = Mixing(region_mix=0.8, expert_mix=0.9, bias=1.0)


def make_scores(seed: int, images: int = 120, classes: int = 7) -> Scores:
    """The branches know the class more or less; seen classes are given too much."""
    rng = np.random.default_rng(seed)
    seen = np.arange(classes) < classes - 3
    labels = rng.integers(0, classes, images)
    own = np.eye(classes)[labels]

    def branch(skill: float) -> np.ndarray:
        noise = rng.standard_normal((images, classes))
        return (skill * own + noise + 1.5 * seen).astype(np.float32)

    of_experts = PerExpert(Branches(branch(2), branch(0)), Branches(branch(0.5), branch(2)))
    none = np.zeros((images, 2), np.float32)
    attributes = PerExpert(Branches(none, none), Branches(none, none))
    return Scores(seen, attributes, of_experts, np.arange(images), labels, np.arange(classes))


def h_of(scores: Scores, m: float, e: float, gammas: np.ndarray) -> list[float]:
    """H by loops, in float64, with every gamma."""
    coarse, fine = (
        m * x.region.astype(float) + (1 - m) * x.channel.astype(float) for x in scores.classes
    )
    biased = e * coarse + (1 - e) * fine + (gammas[:, None] * ~scores.seen)[:, None]
    right = biased.argmax(2) == scores.labels
    accuracy = {k: right[:, scores.labels == k].mean(1) for k in np.unique(scores.labels)}
    u, s = (
        100 * np.mean([a for k, a in accuracy.items() if scores.seen[k] == kind], 0)
        for kind in (False, True)
    )
    return [harmonic_mean(*each) for each in zip(u.tolist(), s.tolist(), strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_no_bias_and_no_mix_is_better(seed: int) -> None:
    scores = make_scores(seed)
    found = calibrate(scores, FIXED, step=0.25)
    assert set(found.mixing) == set(EXPERTS)
    assert found.mixing["coarse"].expert_mix == 1
    assert found.mixing["fine"].expert_mix == 0
    mixes = [0.0, 0.25, 0.5, 0.75, 1.0]
    for name, expert_mixes in (("coarse", [1.0]), ("fine", [0.0]), ("fused", mixes)):
        gammas = np.linspace(-6, 6, 601)
        best = max(max(h_of(scores, m, e, gammas)) for m in mixes for e in expert_mixes)
        h, own = found.metrics[name]["H"], found.mixing[name]
        assert h >= best - 1e-9, name
        (by_hand,) = h_of(scores, own.region_mix, own.expert_mix, np.asarray([own.gamma]))
        assert h == pytest.approx(by_hand, abs=1e-9)
        assert h == pytest.approx(curve(scores, found.mixing[name]).harmonic_mean.max(), abs=1e-9)


def test_of_equal_mixes_the_nearest_to_the_fixed_ones() -> None:
    """Both branches of both experts say the same: every mix has the same H."""
    scores = make_scores(0)
    one = Branches(scores.classes.coarse.region, scores.classes.coarse.region)
    scores = dataclasses.replace(scores, classes=PerExpert(one, one))
    found = calibrate(scores, FIXED, step=0.05).mixing
    assert found["fused"].region_mix == pytest.approx(0.8)
    assert found["fused"].expert_mix == pytest.approx(0.9)
    assert found["fused"].gamma == pytest.approx(found["coarse"].gamma, abs=1e-5)


def test_to_json_and_back() -> None:
    scores = make_scores(1)
    found = calibrate(scores, FIXED, step=0.5)
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.apply(scores) == found.metrics
    assert found.metrics["fused"] == mixed_metrics(scores, found.mixing["fused"])
    broken = found.to_json()
    del broken["fine"]["gamma"]
    with pytest.raises(ValueError, match=r"fine.gamma is missing, expected a finite number"):
        CALIBRATION.check(broken)


def test_a_run_is_calibrated_on_validation_classes(finished: Callable[..., Finished]) -> None:
    path, result = finished("validation").path, finished("validation").result
    run = open_run(path)
    calibration = run.calibration
    assert calibration is not None
    assert result["calibration"]["chosen_on"] == "validation classes"
    fused = result["calibration"]["fused"]
    assert run.mixing().gamma == fused["gamma"]
    # Chosen among everything the fixed mixing could have been; on validation, never on test.
    assert fused["validation"]["H"] >= result["validation"]["fused"]["H"] - 1e-9
    assert result["test_calibrated"] == calibration.apply(run.scores)
    assert run.evaluate() == result["test"]
    assert run.evaluate(calibrated=True) == result["test_calibrated"]
    saved = path / "validation" / "calibration.json"
    assert json.loads(saved.read_text())["models"] == [calibration.to_json()]


def test_a_resumed_run_keeps_its_calibration(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    whole = finished("validation")
    run = shutil.copytree(whole.path, tmp_path / "run")
    for file in (run / "result.json", run / "final" / "result.json"):
        file.unlink()
    assert train(whole.config, run).result == whole.result


def test_runs_without_a_calibration(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    fields = {"selection__calibrate": False, "train__epochs": 2}
    for run in (open_run(finished("last").path), train(tiny_config(data, **fields), tmp_path)):
        assert "calibration" not in run.result
        assert "test_calibrated" not in run.result
        assert run.mixing() == Mixing.from_config(run.config)
        with pytest.raises(InputError, match="the run was not calibrated; train with"):
            run.evaluate(calibrated=True)
