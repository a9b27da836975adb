"""A training on a GPU: the same losses as on a CPU, and the same bits when repeated and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import arrays, tiny_overrides, write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.gpu


def train(data: Path, workdir: Path, platform: str, **fields: object) -> None:
    flags = tiny_overrides(data, selection__protocol="last", train__log_every=1, **fields)
    command = [sys.executable, "-m", "dedn_jax", "train", "--config=base", f"--workdir={workdir}"]
    # A GPU that other tests use too.
    env = {**os.environ, "JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def losses(workdir: Path) -> np.ndarray:
    lines = read_lines(workdir / "metrics.jsonl")
    return np.array([line["loss"] for line in lines if "loss" in line])


@pytest.mark.parametrize("kernel", ["xla", "pallas"])
@pytest.mark.parametrize("on_device", ["replicated", "never"])
def test_losses_of_a_cpu(tmp_path: Path, kernel: str, on_device: str) -> None:
    data = write_tiny(tmp_path / "tiny.hdf5")
    fields: dict[str, object] = {"train__epochs": 5, "data__on_device": on_device}
    train(data, tmp_path / "cpu", "cpu", **fields)
    train(data, tmp_path / "gpu", "cuda,cpu", model__kernel=kernel, **fields)
    expected, found = losses(tmp_path / "cpu"), losses(tmp_path / "gpu")
    assert len(expected) == len(found) > 10
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["xla", "pallas"])
def test_same_bits_when_repeated_and_when_carried_on(tmp_path: Path, kernel: str) -> None:
    data = write_tiny(tmp_path / "tiny.hdf5")
    fields: dict[str, object] = {"model__kernel": kernel, "train__checkpoint_every": 4}
    train(data, tmp_path / "once", "cuda,cpu", train__epochs=6, **fields)
    train(data, tmp_path / "again", "cuda,cpu", train__epochs=6, **fields)
    train(data, tmp_path / "carried-on", "cuda,cpu", train__epochs=3, **fields)
    train(data, tmp_path / "carried-on", "cuda,cpu", train__epochs=6, **fields)
    expected = arrays(tmp_path / "once")
    for name in ("again", "carried-on"):
        for key, value in arrays(tmp_path / name).items():
            np.testing.assert_array_equal(value, expected[key], err_msg=f"{name} {key}")
