"""Steps of several models, timed at a tiny size."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import sweep
from benchmarks.common import step_flops
from benchmarks.whole_training import made_up_dataset
from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.files import read_json

FLAGS = ["--recipe=awa2_gzsl", "--images=48", "--channels=8", "--regions=4", "--batch=8"]


@pytest.mark.slow
def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS, "--seeds=3", "--steps=2", "--rounds=2", f"--json={tmp_path / 'report.json'}"]
    sweep.main(flags)
    printed = capsys.readouterr().out
    report = read_json(tmp_path / "report.json")
    (row,) = report["rows"]
    assert row["seeds"] == 3
    assert 0 < row["low"] <= row["step_ms"] <= row["high"]
    assert row["per_model_ms"] * 3 == pytest.approx(row["step_ms"])
    assert row["times_one"] == pytest.approx(row["step_ms"] / report["one_ms"])
    assert row["separate_ms"] > report["one_ms"]
    batch = 7  # balanced: one of each seen class
    assert f"batch {batch}," in report["problem"]
    done = row["share"] * 1e9 * report["peak_gflop_per_s"] * 1e-3 * row["step_ms"]
    assert done == pytest.approx(3 * step_flops(batch, 85, 8, 4))
    lines = printed.splitlines()
    assert lines[-1].split()[0] == "3" and "peak" in lines[2]


@pytest.mark.slow
def test_both_sides_train_the_same_models() -> None:
    flags = ["--config.data.on_device=replicated", "--config.train.steps_per_call=2"]
    config = load_config("awa2_gzsl", flags)
    config.data.groups = "single"  # compiles sooner
    maker = sweep.Maker(config, made_up_dataset("awa2_gzsl", 85, 48, 8, 4, "float32"))
    together, apart = maker.together(2), maker.apart(2)
    for training in (together, *apart):
        training.call()
        training.call()
    assert together.state.step.tolist() == [4, 4]
    params = [jax.tree.leaves(t.state.params) for t in (together, *apart)]
    for models, *each in zip(*params, strict=True):
        assert not np.array_equal(models[0], models[1])
        # Rounding where a gradient is almost nothing becomes a whole step, of ten learning rates.
        np.testing.assert_allclose(models, np.stack(each), atol=4e-3)


def test_refused() -> None:
    with pytest.raises(InputError, match="--seeds=0, expected at least 1"):
        sweep.main([*FLAGS, "--seeds=1,0"])
