"""Models sharded over eight simulated devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.logs import read_lines
from tests.helpers.devices import run_on_devices
from tests.helpers.tiny import tiny_config
from tests.sweep.common import read, saved_arrays

SHORT: dict[str, object] = {
    "data__groups": "single",  # compiles sooner
    "train__epochs": 3,
    "train__log_every": 1,
    "selection__protocol": "last",
    "optimizer__learning_rate": 1e-3,
}
SCRIPT = f"""
import sys
from dedn_jax.sweep import layout
from dedn_jax.sweep.run import run_sweep
from tests.helpers.tiny import tiny_config
import jax
assert jax.device_count() == 8
_, data, folder = sys.argv
layout.one_by_one = lambda: False  # as on accelerators; the models they are compared with are not
# Cut among the devices, several steps a call; and three models, which each device has all of.
fields = {SHORT}
more = dict(data__on_device="replicated", train__steps_per_call=5)
run_sweep(tiny_config(data, **fields, **more), folder + "/cut", 8)
run_sweep(tiny_config(data, **fields), folder + "/whole", 3)
"""


@pytest.mark.slow
def test_eight_devices(data: Path, tmp_path: Path) -> None:
    _, errors = run_on_devices("-c", SCRIPT, str(data), str(tmp_path))
    assert "every device computes all models" in errors
    config = tiny_config(data, **SHORT)
    assert config.optimizer.epsilon == 1e-8  # as published
    run_sweep(config, tmp_path / "one", 8)
    (expected,) = read(tmp_path / "one")["points"]
    for name, models in (("cut", 8), ("whole", 3)):
        (found,) = read(tmp_path / name)["points"]
        assert found["test"] == expected["test"][:models]
        lines = [read_lines(tmp_path / n / "points" / "0" / "metrics.jsonl") for n in (name, "one")]
        assert len(lines[0]) == len(lines[1]) == 12
        for mine, theirs in zip(*lines, strict=True):
            # Other shapes sum in another order: float32 rounding, 1e-7 as measured.
            for term in ("loss", "agreement", "parameter_norm"):
                np.testing.assert_allclose(mine[term], theirs[term][:models], rtol=1e-5)
        # RMSprop divides a gradient by its own size. Where that is nothing but rounding the step is
        # as long as any, up to 10 learning rates, and its direction is chance: a few numbers end
        # elsewhere, which the loss, having no gradient there, does not see. All others agree.
        for a, b in zip(parameters(tmp_path / name), parameters(tmp_path / "one"), strict=True):
            assert a.shape == (models, *b.shape[1:])
            assert np.mean(np.abs(a - b[:models]) > 1e-5) < 0.05


def parameters(folder: Path) -> list[np.ndarray]:
    return saved_arrays(folder / "points" / "0" / "final" / "selected")
