"""Every distillation objective in a sweep: its first model is that of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.inference.run import train
from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import tiny_config
from tests.sweep.common import read

# Joined in two points of a grid, which then compile twice and not eleven times.
NAMES = list(OBJECTIVES)
POINTS = ("+".join(NAMES[::2]), "+".join(NAMES[1::2]))
SHORT: dict[str, object] = {
    "data__groups": "single",
    "train__epochs": 1,
    "train__log_every": 1,
    "selection__protocol": "last",
}


@pytest.fixture(scope="module")
def objectives(data: Path, runs: Path) -> Path:
    """Two seeds by both points."""
    path = runs / "objectives"
    run_sweep(tiny_config(data, **SHORT), path, 2, [f"loss.distillation.name={','.join(POINTS)}"])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("point", [0, 1])
def test_all_objectives(objectives: Path, data: Path, runs: Path, point: int) -> None:
    folder = objectives / "points" / str(point)
    config = tiny_config(data, **SHORT, loss__distillation__name=POINTS[point])
    run = train(config, runs / f"objectives-{point}")
    found = read(folder)
    assert found["fields"] == {"loss.distillation.name": POINTS[point]}
    assert found["test"][0] == run.result["test"]
    mine = read_lines(folder / "metrics.jsonl")
    theirs = read_lines(run.workdir.path / "metrics.jsonl")
    assert len(mine) == len(theirs) == 4
    for line, expected in zip(mine, theirs, strict=True):
        for name in ("loss", "gradient_norm", "parameter_norm", *POINTS[point].split("+")):
            first, second = line[name]
            assert first == pytest.approx(expected[name], rel=1e-4, abs=1e-6)
            assert first != second
