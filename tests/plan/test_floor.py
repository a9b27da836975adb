"""The floor of a step, by hand: the published sizes of CUB."""

from __future__ import annotations

from typing import Any

import pytest

from dedn_jax.config import load_config
from dedn_jax.parallel.resident.rule import Residency
from dedn_jax.plan.chips import CHIPS, parse_slice
from dedn_jax.plan.exchange import HOP
from dedn_jax.plan.floor import Floor, attention_floor, counted_floor, step_floor
from dedn_jax.plan.sizes import find_sizes

_ROWS, _MAP, _FOLDED = 624, 2048 * 196, 2 * 624 * (2048 + 196)
_PARAMETERS, _STATE = 38.4e6, 115.3e6


def _floor(topology: str, images: int, residency: Residency = "replicated", **fields: Any) -> Floor:
    flags = {"data.path": "none", "data.dtype": "bfloat16", "model.precision": "bfloat16"} | fields
    config = load_config("cub_gzsl", flags)
    sizes = find_sizes(config, "cub_gzsl", {})
    on = parse_slice(topology)
    return step_floor(config, sizes, images, on, _PARAMETERS, _STATE, residency)


def test_one_chip_by_hand() -> None:
    found = _floor("v5e:1x1", 50)
    pooling = 2 * 4 * 2 * 50 * _ROWS * _MAP  # two branches, four products each
    folding = 3 * 2 * 300 * _FOLDED
    classes = 2 * 2 * 50 * 624 * 200
    assert found.flops == pooling + folding + classes
    assert found.compute == pytest.approx(found.flops / 197e12)
    # Maps of 40 MB stay on the chip from the forward pass to the backward one.
    assert found.moved == 50 * 2 * _MAP + 2 * _STATE
    assert found.memory == pytest.approx(found.moved / 819e9)
    assert (found.exchange, found.bound, found.seconds) == (0, "compute", found.compute)
    assert _floor("v5e:1x1", 400).moved == 2 * 400 * 2 * _MAP + 2 * _STATE


def test_float32_products_take_six_passes() -> None:
    half, exact = _floor("v5e:1x1", 50), _floor("v5e:1x1", 50, **{"model.precision": "float32"})
    pooling = 2 * 4 * 2 * 50 * _ROWS * _MAP
    # Maps are bfloat16: their products take one pass at every precision.
    assert exact.flops == half.flops
    assert exact.compute == pytest.approx((pooling + 6 * (half.flops - pooling)) / 197e12)
    full = _floor("v5e:1x1", 50, **{"model.precision": "float32", "data.dtype": "float32"})
    assert full.compute == pytest.approx(6 * half.compute)


def test_the_smaller_gradients_are_added_up() -> None:
    found = _floor("v5e:4x8", 2)
    latency = 2 * (3 + 7) * HOP
    assert found.exchange == pytest.approx(31 / 32 * (4 + 2) * _FOLDED / 100e9 + latency)
    many = _floor("v5e:4x8", 2, **{"data.groups": "single", "model.experts": "coarse"})
    assert many.exchange == pytest.approx(31 / 32 * (4 + 2) * _FOLDED / 2 / 100e9 + latency)
    shared = _floor("v5e:4x8", 2, "sharded")
    assert shared.exchange - found.exchange == pytest.approx(31 / 32 * 2 * 2 * _MAP / 100e9)


def test_parts_of_a_model_and_a_teacher() -> None:
    whole = _floor("v5e:1x1", 50)
    assert _floor("v5e:1x1", 50, **{"model.experts": "fine"}).flops == whole.flops / 2
    branch = _floor("v5e:1x1", 50, **{"model.branches": "channel"})
    assert branch.flops < whole.flops / 2
    taught = _floor("v5e:1x1", 50, **{"teacher.workdir": "runs/all"})
    assert 1.3 * whole.flops < taught.flops < 1.5 * whole.flops


def test_attention_alone_has_no_state() -> None:
    config = load_config("cub_gzsl", {"data.path": "none", "data.dtype": "bfloat16"})
    found = attention_floor(config, find_sizes(config, "cub_gzsl", {}), 50, CHIPS["v5e"])
    assert found.compute == pytest.approx(2 * 4 * 2 * 50 * _ROWS * _MAP / 197e12)
    assert found.moved == 50 * 2 * _MAP + 2 * 4 * _FOLDED


def test_counted_products() -> None:
    found = counted_floor(197e9, 98.5e9, 819e6, CHIPS["v5e"], "float32")
    assert found.compute == pytest.approx((98.5e9 + 6 * 98.5e9) / 197e12)
    assert found.memory == pytest.approx(1e-3)
