"""A whole training at a tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import whole_training
from benchmarks.common import step_flops
from dedn_jax.errors import InputError
from dedn_jax.files import read_json


def test_the_published_sizes() -> None:
    dataset = whole_training.made_up_dataset("cub_gzsl", 312, channels=2, regions=1)
    assert (len(dataset.labels), len(dataset.trainval)) == (11788, 7057)
    assert (len(dataset.seen_classes), len(dataset.unseen_classes)) == (150, 50)
    assert dataset.inputs[np.asarray([11787, 0])].shape == (2, 2, 1)


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="--images=3, expected at least 16"):
        whole_training.made_up_dataset("cub_gzsl", 312, 3)


@pytest.mark.slow
def test_numbers(tmp_path: Path) -> None:
    flags = ["--recipe=awa2_gzsl", "--images=48", "--channels=8", "--regions=4", "--batch=8"]
    flags += ["--epochs=2", "--protocols=test-best", f"--json={tmp_path / 'report.json'}"]
    whole_training.main([*flags, "--dtype=float32", "--precision=float32"])
    report = read_json(tmp_path / "report.json")
    (row,) = report["rows"]
    assert row["steps"] == 7
    assert row["evaluations"] == 4  # after 3, 6 and 7 steps, and of the result
    parts = row["load_s"] + row["first_call_s"] + row["evaluation_s"]
    assert 0 < parts < row["total_s"]
    assert row["steps_per_s"] > 0
    flops, peak = report["gflop_of_step"], report["peak_gflop_per_s"]
    # Of the 7 seen classes of so few images, one image each.
    assert flops == pytest.approx(step_flops(7, 85, 8, 4) / 1e9)
    assert row["share"] == pytest.approx(row["steps_per_s"] * flops / peak)
