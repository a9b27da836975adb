"""Least times, by hand."""

from __future__ import annotations

import pytest

from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.roofline import memory_needed, ring_bytes, roofline

_ANSWER = {
    "flops_outside_loops": 100e9,
    "flops_inside_loops": 97e9,
    "flops_bfloat16": 0,
    "trips": 7,
    "trips_compiled": 7,
    "bytes_xla": 819e6,
    "arguments": 10e6,
    "resident": 0,
    "outputs": 8e6,
    "aliased": 7e6,
    "temporaries": 3e6,
    "code": 1e6,
    "collectives": {"all-reduce": {"count": 2, "bytes": 80e6}},
}


def test_a_step_by_hand() -> None:
    least = roofline(_ANSWER, parse_slice("v5e:2x4"), "bfloat16")
    assert least.compute == pytest.approx(1e-3)  # 197 GFLOP at 197 TFLOP/s
    assert least.memory == pytest.approx(1e-3)  # 819 MB at 819 GB/s
    assert least.exchange == pytest.approx(1.4e-3)  # 2 · 7/8 · 80 MB over two links of 50 GB/s
    assert least.seconds == pytest.approx(2.4e-3)


def test_float32_products_take_six_passes() -> None:
    least = roofline(_ANSWER, parse_slice("v5e:2x4"), "float32")
    assert least.compute == pytest.approx(6e-3)


def test_a_loop_that_is_not_cut_runs_for_all_images_on_every_chip() -> None:
    least = roofline(_ANSWER | {"trips_compiled": 56}, parse_slice("v5e:2x4"), "bfloat16")
    assert least.flops == 100e9 + 8 * 97e9
    assert least.share == 197e9


def test_maps_that_stay_are_not_read_in_every_step() -> None:
    there = _ANSWER | {"arguments": 8e9 + 10e6, "resident": 8e9}
    assert roofline(there, parse_slice("v5e:2x4"), "bfloat16") == roofline(
        _ANSWER, parse_slice("v5e:2x4"), "bfloat16"
    )
    assert memory_needed(there) == memory_needed(_ANSWER) + 8e9


def test_memory_traffic_is_at_least_what_goes_in_and_out() -> None:
    least = roofline(_ANSWER | {"bytes_xla": 0.0}, parse_slice("v5e:2x4"), "bfloat16")
    assert least.memory == pytest.approx(18e6 / 819e9)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 1500),
        ("all-gather", 750),
        ("reduce-scatter", 750),
        ("collective-permute", 1000),
    ],
)
def test_what_a_chip_sends_in_a_ring(kind: str, sent: float) -> None:
    assert ring_bytes(kind, 1000, 4) == sent
    assert ring_bytes(kind, 1000, 1) == 0


def test_memory_is_what_the_compiler_says_where_it_gave_up() -> None:
    assert memory_needed(_ANSWER) == 15e6
    assert memory_needed({"needed": 20e9, "have": 16e9}) == 20e9


def test_products_of_bfloat16_take_one_pass() -> None:
    chip = parse_slice("v5e:1x1")
    half = roofline({**_ANSWER, "flops_bfloat16": 98.5e9}, chip, "float32")
    assert half.compute == pytest.approx((98.5e9 + 6 * 98.5e9) / 197e12)
    all_of_them = roofline({**_ANSWER, "flops_bfloat16": 197e9}, chip, "float32")
    assert all_of_them.compute == roofline(_ANSWER, chip, "bfloat16").compute
