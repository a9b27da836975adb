"""Sweeps with a schedule, clipping and averages: each model is that of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.inference.run import train
from dedn_jax.sweep.run import run_sweep
from tests.helpers.shared import made_once
from tests.helpers.tiny import light_config
from tests.sweep.common import FIELDS, SEEDS, assert_model_is, losses, read

EPOCHS, WARMUP, FINAL, HIGHEST = 12, 1.5, 0.2, 0.01
OPTIMIZER: dict[str, object] = {
    "train__log_every": 1,
    "selection__refit": "continue",
    "selection__continue_epochs": 0.6,
    "optimizer__learning_rate": HIGHEST,
    "optimizer__schedule": "cosine",
    "optimizer__warmup_epochs": WARMUP,
    "optimizer__final_fraction": FINAL,
    "optimizer__clip_norm": 0.5,
    "optimizer__ema_decay": 0.7,
}
NAMES = ("rmsprop", "lion")


@pytest.fixture(scope="module")
def scheduled(data: Path, shared: Path) -> Path:
    config, grid = light_config(data, **FIELDS | OPTIMIZER), [f"optimizer.name={','.join(NAMES)}"]
    made_once(shared / "scheduled", lambda folder: run_sweep(config, folder, SEEDS, grid))
    return shared / "scheduled" / "points"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_model_is_that_of_train(
    data: Path, scheduled: Path, name: str, runs: Path
) -> None:
    config: ConfigDict = light_config(data, **FIELDS | OPTIMIZER, optimizer__name=name)
    train(config, runs / name)
    point = scheduled / str(NAMES.index(name))
    assert_model_is(point, 0, runs / name)
    mine, theirs = losses(point), losses(runs / name)
    for key in mine.keys() & theirs.keys():
        assert mine[key]["learning_rate"][0] == theirs[key]["learning_rate"]


def test_every_model_goes_on_from_its_own_place_on_the_curve(scheduled: Path) -> None:
    point = read(scheduled / "0")
    selected = [v["selected_step"] for v in point["validation"]]
    assert len(set(selected)) > 1
    lines = losses(scheduled / "0")
    for model, step in enumerate(selected):
        epoch = round(step * 12 / 30 * 48 / 12) * 12 / 48  # of 30 images, then of 48
        through = (epoch - WARMUP) / (EPOCHS - WARMUP)
        share = FINAL + (1 - FINAL) * 0.5 * (1 + np.cos(np.pi * through))
        found = lines["final", 1]["learning_rate"][model]
        assert found == pytest.approx(HIGHEST * share, rel=1e-5)
