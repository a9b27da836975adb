"""Schedules, clipping and averages of parameters in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dedn_jax.config import load_config
from dedn_jax.inference.run import train
from dedn_jax.training.interrupt import Interrupted
from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import arrays, light_config
from tests.made_up import prepared_folder
from tests.training.common import StopAfter

BATCH, IMAGES = 12, {"validation": 30, "final": 48}
EPOCHS, WARMUP, FINAL, HIGHEST = 8, 2, 0.1, 0.01
FIELDS: dict[str, object] = {
    "train__epochs": EPOCHS,
    "train__log_every": 1,
    "train__checkpoint_every": 3,
    "optimizer__learning_rate": HIGHEST,
    "optimizer__schedule": "cosine",
    "optimizer__warmup_epochs": WARMUP,
    "optimizer__final_fraction": FINAL,
    "optimizer__clip_norm": 1.0,
    "optimizer__ema_decay": 0.8,
}


def curve(epoch: float) -> float:
    """The learning rate after so many epochs, of as many images as the phase has."""
    if epoch < WARMUP:
        return HIGHEST * epoch / WARMUP
    through = min(1.0, (epoch - WARMUP) / (EPOCHS - WARMUP))
    return HIGHEST * (FINAL + (1 - FINAL) * 0.5 * (1 + np.cos(np.pi * through)))


def rates(path: Path, phase: str) -> list[float]:
    lines = read_lines(path / "metrics.jsonl")
    return [r["learning_rate"] for r in lines if r["phase"] == phase and "loss" in r]


@pytest.fixture(scope="module")
def validated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "validated"
    train(light_config(data, **FIELDS), path)
    return path


def expected_rates(phase: str, steps: int, first_epoch: float = 0.0) -> list[float]:
    return [curve(first_epoch + step * BATCH / IMAGES[phase]) for step in range(steps)]


@pytest.mark.slow
def test_the_retrained_phase_follows_the_same_curve(validated: Path) -> None:
    validation = rates(validated, "validation")
    assert validation == pytest.approx(expected_rates("validation", 20), rel=1e-5, abs=1e-9)
    final = rates(validated, "final")
    assert 1 < len(final) < 32  # it ends at the selected epoch
    assert final == pytest.approx(expected_rates("final", len(final)), rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_the_continued_phase_goes_on_along_it(data: Path, tmp_path: Path) -> None:
    fields = {"selection__refit": "continue", "selection__continue_epochs": 0.9}
    result = train(light_config(data, **FIELDS, **fields), tmp_path / "run").result
    epoch = result["validation"]["selected_step"] * BATCH / IMAGES["validation"]
    assert epoch > WARMUP
    final = rates(tmp_path / "run", "final")
    # The step at which the curve is taken up is rounded.
    first = round(epoch * IMAGES["final"] / BATCH) * BATCH / IMAGES["final"]
    assert final == pytest.approx(expected_rates("final", len(final), first), rel=1e-5)


def test_a_resumed_run_ends_as_an_undisturbed_one(
    data: Path, validated: Path, tmp_path: Path
) -> None:
    config = light_config(data, **FIELDS)
    for looks, stopped in ((5, "of 20 of phase validation"), (45, "of phase final")):
        with pytest.raises(Interrupted, match=stopped):
            train(config, tmp_path / "run", stop=StopAfter(looks))
    train(config, tmp_path / "run")
    found, expected = arrays(tmp_path / "run"), arrays(validated)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for phase in IMAGES:
        assert rates(tmp_path / "run", phase) == rates(validated, phase)


def saved_state(folder: Path) -> dict[str, Any]:
    """The training state of the newest checkpoint in a folder, as nested dicts."""
    newest = max(folder.iterdir(), key=lambda p: int(p.name)) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(newest).item_metadata.tree
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), tree)
        return checkpointer.restore(newest, like)


def test_averages_are_evaluated_selected_and_saved(data: Path, tmp_path: Path) -> None:
    fields = FIELDS | {"selection__protocol": "test-best", "selection__metric": "ausuc"}
    run = train(light_config(data, **fields), tmp_path / "run")
    lines = [r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "evaluated_on" in r]
    best = max(lines, key=lambda r: r["fused"]["AUSUC"])
    assert run.result["test"] == {e: best[e] for e in ("coarse", "fused")}

    fields |= {"selection__protocol": "last"}
    run = train(light_config(data, **fields), tmp_path / "last")
    state = saved_state(tmp_path / "last" / "final" / "checkpoints")
    trees = run.params, state["optimizer"]["average"], state["params"]
    saved, average, reached = map(jax.tree.leaves, trees)
    for a, b, c in zip(saved, average, reached, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(np.asarray(a) - c).max() > 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        pytest.param("sgd", marks=pytest.mark.slow),
        pytest.param("lion", marks=pytest.mark.slow),
    ],
)
def test_every_optimiser_learns(data: Path, tmp_path: Path, name: str) -> None:
    learning_rate = {"adamw": 0.1, "sgd": 0.1, "lion": 0.03}[name]
    fields = {"optimizer__name": name, "optimizer__learning_rate": learning_rate}
    config = light_config(data, **fields, selection__protocol="last", train__epochs=20)
    run = train(config, tmp_path / "run")
    losses = [r["loss"] for r in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2
    assert run.result["test"]["fused"]["S"] > 3 * 12.5  # chance is 12.5


@pytest.mark.slow
def test_a_trained_backbone_has_schedule_and_average(tmp_path: Path) -> None:
    fields: dict[str, object] = {
        "data.format": "prepared",
        "data.path": prepared_folder(tmp_path),
        "data.source": "images",
        "model.experts": "coarse",
        "backbone.name": "small",
        "backbone.trained": True,
        "backbone.learning_rate": 1e-3,
        "picture.resize": 32,
        "picture.crop": 32,
        "train.epochs": 2,
        "train.batch_size": 12,
        "train.log_every": 1,
        "selection.protocol": "last",
        "optimizer.name": "adamw",
        "optimizer.schedule": "cosine",
        "optimizer.warmup_epochs": 0.5,
        "optimizer.clip_norm": 1.0,
        "optimizer.ema_decay": 0.8,
    }
    run = train(load_config("base", fields), tmp_path / "run")
    found = rates(tmp_path / "run", "final")
    assert found[0] == 0 and found[-1] < max(found)
    state = saved_state(tmp_path / "run" / "final" / "checkpoints")
    saved, average = run.params["backbone"], state["optimizer"]["average"]["backbone"]
    for a, b, c in zip(
        *map(jax.tree.leaves, (saved, average, state["params"]["backbone"])), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        assert np.abs(np.asarray(a) - c).max() > 1e-6
