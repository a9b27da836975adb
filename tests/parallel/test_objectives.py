"""Every distillation objective trains the same on one device and on eight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.training.distillation import ALWAYS_LOGGED
from tests.parallel.objectives_on_devices import BY_IMAGE, WHOLE

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def distances() -> dict[str, dict[str, float]]:
    """Of every case, from one process for all."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.objectives_on_devices"],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            # Compiled without LLVM's optimisations, in half the time.
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["jit", "jit, whole batches", "pmap", "attribute shards"])
def test_eight_devices(distances: dict[str, dict[str, float]], case: str) -> None:
    """Parameters, and the terms of every step."""
    found, trained = distances[case], BY_IMAGE if case == "jit" else WHOLE
    terms = {"parameters", "loss", "gradient_norm", "distillation_factor"}
    assert {*terms, *ALWAYS_LOGGED, *trained} <= found.keys()
    assert max(found.values()) <= 1e-5, found


def test_none_is_left_out() -> None:
    assert {*BY_IMAGE, *WHOLE} == set(OBJECTIVES)
