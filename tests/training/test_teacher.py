"""Training on a share of the images, with a finished run as the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.data.dataset import pruned, trainval_task
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.inference.run import open_run, train
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import PER_CLASS, SEEN, TRAINVAL, tiny_config
from tests.training.common import Finished

assert PER_CLASS > TRAINVAL


def test_a_share_of_every_class(data: Path) -> None:
    task = trainval_task(load_dataset(tiny_config(data)))
    half = pruned(task, 0.5, 3)
    labels = task.labels[half.train]
    assert np.bincount(labels).tolist() == [TRAINVAL // 2] * SEEN
    assert set(half.train) < set(task.train)
    assert (pruned(task, 0.5, 3).train == half.train).all()
    assert (pruned(task, 0.5, 4).train != half.train).any()
    assert np.bincount(task.labels[pruned(task, 0.01, 3).train]).tolist() == [1] * SEEN
    assert pruned(task, 1.0, 3) is task


@pytest.mark.parametrize("protocol", [pytest.param("validation", marks=pytest.mark.slow), "last"])
def test_a_run_learns_from_its_teacher(
    finished: Callable[..., Finished], data: Path, tmp_path: Path, protocol: str
) -> None:
    """The weight 1 leaves the labels out: scores come nearer to the teacher's, phase by phase."""
    teacher = finished(protocol).path
    own = {
        "selection__protocol": protocol,
        "train__images": 0.5,
        "train__epochs": 12,
        "teacher__workdir": str(teacher),
        "teacher__weight": 1.0,
        "loss__distillation__name": "none",
        "loss__alignment_weight": 0.0,
        "loss__calibration_weight": 0.0,
    }
    config = tiny_config(data, **own)
    run = train(config, tmp_path / "student")
    lines = [line for line in read_lines(run.workdir.metrics_file) if "loss" in line]
    for phase in {line["phase"] for line in lines}:
        first, *_, last = (line for line in lines if line["phase"] == phase)
        assert first["loss"] == pytest.approx(first["teacher_coarse"] + first["teacher_fine"])
        assert last["teacher_coarse"] < 0.5 * first["teacher_coarse"]
    assert run.result["test"]["fused"]["AUSUC"] > 0.3  # by a teacher alone

    # Evaluating needs no teacher; going on with another one is refused.
    moved = open_run(run.workdir.path, {"teacher.workdir": "elsewhere"})
    assert moved.evaluate() == run.result["test"]
    config.teacher.workdir = str(shutil.copytree(run.workdir.path, tmp_path / "other"))
    with pytest.raises(InputError, match=r"on another data set \(differs in teacher\)"):
        train(config, tmp_path / "student")


def test_what_is_no_teacher(finished: Callable[..., Finished], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        train(tiny_config(data, teacher__workdir=str(tmp_path)), tmp_path / "run")
    last = str(finished("last").path)
    with pytest.raises(InputError, match=r"same validation classes .* its protocol is last"):
        train(
            tiny_config(data, teacher__workdir=last, selection__protocol="validation"),
            tmp_path / "run",
        )
    other = {"teacher__workdir": str(finished("validation").path), "seed": 5}
    with pytest.raises(InputError, match="but seed=0 there, 5 here; train it with the same"):
        train(tiny_config(data, selection__protocol="validation", **other), tmp_path / "run")


@pytest.mark.slow
def test_a_sweep_with_a_teacher(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        data,
        data__groups="single",  # compiles sooner
        selection__protocol="last",
        train__images=0.5,
        train__mixup=0.3,
        train__epochs=4,
        teacher__workdir=str(finished("last").path),
    )
    (point,) = run_sweep(config, tmp_path / "sweep", 2)["points"]
    assert point["test"][0] == train(config, tmp_path / "run").result["test"]
