"""What the tests of whole sweeps share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.interrupt import Interrupted, StopRequest
from dedn_jax.training.logs import read_lines
from dedn_jax.training.phases import VALIDATION_LABEL

SEEDS = 3
PROTOCOLS = ("last", "validation", "test-best")
GRID = ["selection.protocol=last,validation,test-best"]
FIELDS: dict[str, object] = {
    "train__epochs": 12,
    "train__evaluate_every": 3,
    "train__log_every": 4,
    "train__checkpoint_every": 10,
}


def read(path: Path) -> dict[str, Any]:
    return json.loads((path / "result.json").read_text())


def saved_arrays(path: Path) -> list[np.ndarray]:
    """What Orbax wrote to a folder, restored onto this process's device."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), tree)
        return [np.asarray(x) for x in jax.tree.leaves(checkpointer.restore(path, like))]


class StopAfter(StopRequest):
    """A request to stop that comes at the `calls`-th look, as SIGTERM does."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    @property
    def signal_number(self) -> int:  # type: ignore[override]
        self._left -= 1
        return 15 if self._left < 0 else 0


def interrupted_sweep(
    calls: int, message: str, config: ConfigDict, path: Path, grid: list[str]
) -> None:
    """A sweep that is asked to stop at the `calls`-th look, and says `message`."""
    with pytest.raises(Interrupted, match=message):
        run_sweep(config, path, SEEDS, grid, stop=StopAfter(calls))


def assert_model_is(point: Path, model: int, run: Path) -> None:
    """A model of a sweep's point has the losses, the selection and the metrics of a training."""
    found, expected = read(point), read(run)
    assert found["diverged_at"][model] is None
    for name in ("test", "steps", "selected_step"):
        assert found[name][model] == expected[name]
    for name in ("validation", "test_best_t1", "calibration", "test_calibrated"):
        assert (name in found) == (name in expected)
        if name == "calibration" and name in expected:
            assert expected[name]["chosen_on"] == VALIDATION_LABEL
            for expert, chosen in found[name][model].items():
                theirs = expected[name][expert]
                assert chosen["validation"] == theirs["validation"]
                for field in ("gamma", "expert_mix", "region_mix"):  # gamma depends on rounding
                    assert chosen[field] == pytest.approx(theirs[field], rel=1e-4)
        elif name in expected:
            assert found[name][model] == expected[name]
    mine, theirs = losses(point), losses(run)
    shared = mine.keys() & theirs.keys()
    assert len(shared) >= len(theirs) - 2  # the last of a phase may be between two of the sweep's
    for key in shared:
        for name in theirs[key].keys() & {"loss", "agreement", "parameter_norm"}:
            assert mine[key][name][model] == pytest.approx(theirs[key][name], rel=1e-4, abs=1e-6)


def losses(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = read_lines(folder / "metrics.jsonl")
    return {(line["phase"], line["step"]): line for line in lines if "loss" in line}
