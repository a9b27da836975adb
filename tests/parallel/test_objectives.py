"""Every distillation objective trains the same on one device and on eight."""

from __future__ import annotations

import json

import pytest

from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.training.distillation import ALWAYS_LOGGED
from tests.helpers.devices import run_on_devices
from tests.parallel.objectives_on_devices import BY_IMAGE, WHOLE


@pytest.fixture(scope="module")
def distances() -> dict[str, dict[str, float]]:
    """Of every case, from one process for all."""
    output, _ = run_on_devices("-m", "tests.parallel.objectives_on_devices", quick=True)
    return json.loads(output)


@pytest.mark.parametrize(
    ("case", "trained"),
    [
        ("jit", BY_IMAGE),
        ("jit, whole batches", WHOLE),
        ("pmap", WHOLE),
        ("attribute shards", WHOLE),
        ("sharded state", BY_IMAGE),
        ("sharded state, whole batches", WHOLE),
        ("sharded state, attribute shards", WHOLE),
    ],
)
def test_eight_devices(
    distances: dict[str, dict[str, float]], case: str, trained: tuple[str, ...]
) -> None:
    """Parameters, and the terms of every step."""
    found = distances[case]
    terms = {"parameters", "loss", "gradient_norm", "distillation_factor"}
    assert {*terms, *ALWAYS_LOGGED, *trained} <= found.keys()
    assert max(found.values()) <= 1e-5, found


def test_none_is_left_out() -> None:
    assert {*BY_IMAGE, *WHOLE} == set(OBJECTIVES)
