"""Calibration: against a search over everything, frozen in the result, applied once."""

from __future__ import annotations

import dataclasses
import json
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
from tests.helpers.tiny import tiny_config, write_tiny

FIXED = Mixing(region_mix=0.8, expert_mix=0.9, bias=1.0)


@pytest.fixture(scope="module")
def tiny_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")


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


def h_of(scores: Scores, mixing: Mixing) -> float:
    """H by loops, in float64."""
    m, e = mixing.region_mix, mixing.expert_mix
    coarse, fine = (
        m * x.region.astype(float) + (1 - m) * x.channel.astype(float) for x in scores.classes
    )
    chosen = (e * coarse + (1 - e) * fine + mixing.gamma * ~scores.seen).argmax(1)
    accuracy = {
        k: float(np.mean(chosen[scores.labels == k] == k)) for k in np.unique(scores.labels)
    }
    u, s = (
        100 * float(np.mean([a for k, a in accuracy.items() if scores.seen[k] == kind]))
        for kind in (False, True)
    )
    return harmonic_mean(u, s)


@pytest.mark.parametrize("seed", range(3))
def test_no_bias_and_no_mix_is_better(seed: int) -> None:
    scores = make_scores(seed)
    found = calibrate(scores, FIXED, step=0.25)
    assert set(found.mixing) == set(EXPERTS)
    assert found.mixing["coarse"].expert_mix == 1
    assert found.mixing["fine"].expert_mix == 0
    mixes = [0.0, 0.25, 0.5, 0.75, 1.0]
    for name, expert_mixes in (("coarse", [1.0]), ("fine", [0.0]), ("fused", mixes)):
        best = max(
            h_of(scores, Mixing(m, e, gamma / 2))
            for m in mixes
            for e in expert_mixes
            for gamma in np.linspace(-6, 6, 601)
        )
        h = found.metrics[name]["H"]
        assert h >= best - 1e-9, name
        assert h == pytest.approx(h_of(scores, found.mixing[name]), abs=1e-9)
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


def test_a_run_is_calibrated_on_validation_classes(tiny_hdf5: Path, tmp_path: Path) -> None:
    run = train(tiny_config(tiny_hdf5, selection__protocol="validation"), tmp_path / "run")
    result, calibration = run.result, run.calibration
    assert calibration is not None
    assert result["calibration"]["chosen_on"] == "validation classes"
    fused = result["calibration"]["fused"]
    assert run.mixing().gamma == fused["gamma"]
    # Chosen among everything the fixed mixing could have been; on validation, never on test.
    assert fused["validation"]["H"] >= result["validation"]["fused"]["H"] - 1e-9
    assert result["test_calibrated"] == calibration.apply(run.scores)
    again = open_run(tmp_path / "run")
    assert again.evaluate() == result["test"]
    assert again.evaluate(calibrated=True) == result["test_calibrated"]
    saved = tmp_path / "run" / "validation" / "calibration.json"
    assert json.loads(saved.read_text())["models"] == [calibration.to_json()]


def test_a_resumed_run_keeps_its_calibration(tiny_hdf5: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_hdf5, selection__protocol="validation")
    first = train(config, tmp_path / "run").result
    for file in (tmp_path / "run" / "result.json", tmp_path / "run" / "final" / "result.json"):
        file.unlink()
    assert train(config, tmp_path / "run").result == first


@pytest.mark.parametrize(
    "fields", [{"selection__protocol": "last"}, {"selection__calibrate": False}]
)
def test_runs_without_a_calibration(fields: dict, tiny_hdf5: Path, tmp_path: Path) -> None:
    run = train(tiny_config(tiny_hdf5, **fields), tmp_path / "run")
    assert "calibration" not in run.result
    assert "test_calibrated" not in run.result
    assert run.mixing() == Mixing.from_config(run.config)
    with pytest.raises(InputError, match="the run was not calibrated; train with"):
        run.evaluate(calibrated=True)
