"""The protocols: what each reads, selects and reports."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dedn_jax.data.load import load_dataset
from dedn_jax.inference.run import open_run, train
from dedn_jax.training.evaluation import EXPERTS, METRICS
from dedn_jax.training.logs import read_lines
from dedn_jax.training.phases import TEST_BEST_LABEL, VALIDATION_LABEL
from dedn_jax.training.protocol import result_text
from tests.helpers.tiny import (
    EPOCHS,
    SEEN,
    UNSEEN,
    arrays,
    light_config,
    named,
    tiny_config,
    write_tiny,
)
from tests.training.common import Finished


def check_metrics(metrics: dict[str, dict[str, float]]) -> None:
    assert set(metrics) == set(EXPERTS)
    for values in metrics.values():
        assert set(values) == {*METRICS, "AUSUC"}
        assert all(0 <= v <= 100 for v in values.values())
        assert values["AUSUC"] <= 1
        u, s = values["U"], values["S"]
        assert values["H"] == pytest.approx(2 * u * s / (u + s) if u + s else 0)


# 48 training images of 6 classes; validation: 1 class of 6 (8 images), and 2 of 8 images of each
# of the others: 30 left to train on.
STEPS, VALIDATION_STEPS = 48 * EPOCHS // 12, 30 * EPOCHS // 12


@pytest.mark.parametrize("protocol", ["validation", "last", "test-best"])
def test_result_and_metrics(finished: Callable[..., Finished], protocol: str) -> None:
    run = finished(protocol)
    result, lines = run.result, run.lines
    assert json.loads((run.path / "result.json").read_text()) == result
    assert result["protocol"] == protocol
    assert result["seed"] == 0
    assert result["classes"] == {"seen": SEEN, "unseen": UNSEEN}
    check_metrics(result["test"])
    # The signal is learnable: chance is 12.5 over all classes, 50 between the two unseen.
    assert result["test"]["fused"]["S"] > 3 * 12.5

    training = [r for r in lines if "loss" in r]
    evaluations = [r for r in lines if "evaluated_on" in r]
    assert len(training) + len(evaluations) == len(lines)
    final = [r["step"] for r in training if r["phase"] == "final"]
    assert final == [*range(3, result["steps"], 3), result["steps"]]
    for r in training:
        assert {"cross_entropy_coarse", "agreement", "calibration_fine", "gradient_norm"} < set(r)
        assert all(np.isfinite(v) for k, v in r.items() if k != "phase")
    assert training[-1]["loss"] < training[0]["loss"] / 2
    for r in evaluations:
        check_metrics({e: r[e] for e in EXPERTS})
    text = result_text(result)
    assert f"{result['test']['fused']['H']:8.1f}" in text
    assert f"Test sets ({protocol}), fixed bias and mixes; U, S, H, T1 in percent:" in text


def test_validation_selects_on_validation(finished: Callable[..., Finished]) -> None:
    run = finished("validation")
    result = run.result
    evaluations = [r for r in run.lines if "evaluated_on" in r]
    assert {(r["phase"], r["evaluated_on"]) for r in evaluations} == {
        ("validation", VALIDATION_LABEL)
    }
    assert [r["step"] for r in evaluations] == [*range(2, VALIDATION_STEPS, 2), VALIDATION_STEPS]
    best = max(evaluations, key=lambda r: r["fused"]["H"])  # the first of equals
    validation = result["validation"]
    assert validation["steps"] == VALIDATION_STEPS
    assert validation["selected_step"] == best["step"]
    assert {e: validation[e] for e in EXPERTS} == {e: best[e] for e in EXPERTS}
    assert best["fused"]["H"] > 0
    # Retrained for as many epochs: 12 images a step, 30 against 48 training images.
    expected = int(np.floor(48 * (best["step"] * 12 / 30) / 12 + 1e-9))
    assert result["steps"] == result["selected_step"] == expected
    assert result["selected_by"] == VALIDATION_LABEL
    assert result["refit"] == "retrain"
    assert "test_best_t1" not in result


def test_last_evaluates_nothing_before_the_end(finished: Callable[..., Finished]) -> None:
    run = finished("last")
    assert not [r for r in run.lines if "evaluated_on" in r]
    assert {r["phase"] for r in run.lines} == {"final"}
    assert run.result["steps"] == run.result["selected_step"] == STEPS
    assert run.result["selected_by"] == "the last step"
    assert "validation" not in run.result
    assert "test_best_t1" not in run.result


def test_test_best_is_labelled_everywhere(finished: Callable[..., Finished]) -> None:
    run = finished("test-best")
    assert "test-best" in TEST_BEST_LABEL
    evaluations = [r for r in run.lines if set(EXPERTS) & set(r)]
    assert [r["step"] for r in evaluations] == list(range(4, STEPS + 1, 4))
    assert all(r["evaluated_on"] == TEST_BEST_LABEL for r in evaluations)
    assert run.result["selected_by"] == TEST_BEST_LABEL
    text = result_text(run.result)
    assert TEST_BEST_LABEL in text
    assert "Test sets (test-best)" in text
    best = max(evaluations, key=lambda r: r["fused"]["H"])
    assert run.result["selected_step"] == best["step"]
    assert run.result["test"] == {e: best[e] for e in EXPERTS}
    best_t1 = max(evaluations, key=lambda r: r["fused"]["T1"])
    assert run.result["test_best_t1"] == {"T1": best_t1["fused"]["T1"], "step": best_t1["step"]}


class Recorder:
    """Feature maps that note which images are read, and when."""

    def __init__(self, features: Any, when: Callable[[], str]) -> None:
        self._features, self._when = features, when
        self.read: dict[str, list[int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        self.read.setdefault(self._when(), []).extend(np.asarray(indices).tolist())
        return self._features[indices]


@pytest.mark.parametrize("protocol", ["validation", "last"])
def test_test_images_are_read_once_at_the_end(data: Path, tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "run"

    def when() -> str:
        if not (path / "config.json").exists():
            return "start-up"  # the fingerprint looks at a sample of all images
        for phase in ("final", "validation"):
            if (path / phase / "result.json").exists():
                return f"after {phase}"
        return "before"

    dataset = load_dataset(tiny_config(data))
    recorder = Recorder(dataset.inputs, when)
    dataset = dataclasses.replace(dataset, inputs=recorder)
    config = tiny_config(data, selection__protocol=protocol, train__epochs=3)
    train(config, path, dataset=dataset)

    test = sorted([*dataset.test_seen, *dataset.test_unseen])
    trainval = set(dataset.trainval.tolist())
    before = recorder.read["before"] + recorder.read.get("after validation", [])
    assert not set(before) & set(test)
    assert set(before) <= trainval
    # Eight at a time divide both test sets: nothing is repeated to fill a batch.
    assert sorted(recorder.read["after final"]) == test
    assert ("after validation" in recorder.read) == (protocol == "validation")


def test_validation_knows_nothing_of_the_test_sets(data: Path, tmp_path: Path) -> None:
    """Other test images and other unseen classes: bit for bit the same selection, of all mixes."""
    other = write_tiny(tmp_path / "other.hdf5", unseen=1)
    outcomes = []
    for name, file in (("a", data), ("b", other)):
        result = train(tiny_config(file, train__epochs=3), tmp_path / name).result
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        outcomes.append((result["validation"], [r for r in lines if r["phase"] == "validation"]))
        fingerprint = json.loads((tmp_path / name / "dataset.json").read_text())
        outcomes[-1] += (fingerprint["class_embeddings"],)
    assert outcomes[0][:2] == outcomes[1][:2]
    assert outcomes[0][2] != outcomes[1][2]  # the data sets did differ


def test_refit_continue(data: Path, tmp_path: Path) -> None:
    """On from the selected parameters, for a share of the selected epochs."""
    config = light_config(
        data,
        selection__refit="continue",
        selection__continue_epochs=0.01,
        optimizer__momentum=0.0,
        optimizer__learning_rate=0.003,
        train__epochs=4,
    )
    path = tmp_path / "run"
    result = train(config, path).result
    assert result["refit"] == "continue"
    assert result["steps"] == 1  # never less than one
    final = arrays(path)
    shutil.rmtree(path / "final" / "selected")
    shutil.copytree(path / "validation" / "selected", path / "final" / "selected")
    selected = arrays(path)
    initial = named(open_run(path).network.params)
    for name in final:
        # RMSprop's first step is lr · g / sqrt(0.01 g²): ten times the learning rate at most.
        assert np.abs(final[name] - selected[name]).max() <= 10 * 0.003 * 1.001
        assert np.abs(final[name] - selected[name]).max() > 0.003
    moved = max(np.abs(final[name] - initial[name]).max() for name in final)
    assert moved > 1.5 * 10 * 0.003  # more than one step from the beginning


def test_two_trainings_are_bit_identical(finished: Callable[..., Finished], tmp_path: Path) -> None:
    run = finished("last")
    jax.clear_caches()  # compiled anew
    assert train(run.config, tmp_path / "run").result == run.result
    first, second = arrays(run.path), arrays(tmp_path / "run")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    name = "metrics.jsonl"
    assert read_lines(run.path / name) == read_lines(tmp_path / "run" / name)
