"""Every distillation objective trains the same on one device and on eight."""

from __future__ import annotations

import json

import pytest

from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.training.distillation import ALWAYS_LOGGED
from tests.helpers.devices import run_on_devices
from tests.parallel.objectives_on_devices import BY_IMAGE, CASES, WHOLE

# Both kinds of objectives, and all that eight devices can share out.
FIRST = ("jit", "sharded state, attribute shards")
OTHERS = tuple(name for name in CASES if name not in FIRST)


@pytest.mark.parametrize("names", [FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=str)
def test_eight_devices(names: tuple[str, ...]) -> None:
    """Parameters, and the terms of every step; one process for several, which share much."""
    output, _ = run_on_devices("-m", "tests.parallel.objectives_on_devices", *names, quick=True)
    distances = json.loads(output)
    assert list(distances) == list(names)
    for name, found in distances.items():
        terms = {"parameters", "loss", "gradient_norm", "distillation_factor"}
        assert {*terms, *ALWAYS_LOGGED, *CASES[name].names} <= found.keys()
        assert max(found.values()) <= 1e-5, (name, found)


def test_none_is_left_out() -> None:
    assert {*BY_IMAGE, *WHOLE} == set(OBJECTIVES)
