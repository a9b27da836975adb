"""Times of collectives, by hand."""

from __future__ import annotations

import pytest

from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.exchange import HOP, exchange, hops, ring_bytes


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


def test_an_all_reduce_takes_its_bytes_and_its_hops() -> None:
    on = parse_slice("v5e:2x4")  # no axis is a ring: two links of 50 GB/s
    found = exchange("all-reduce", 80e6, 8, on)
    assert found.sending == pytest.approx(1.4e-3)
    assert found.latency == pytest.approx(2 * (1 + 3) * HOP)
    assert exchange("all-reduce", 80e6, 1, on) == (0, 0)


def test_rings_are_half_as_far() -> None:
    assert hops("all-gather", parse_slice("v5e:16x16")) == 8 + 8
    assert hops("all-gather", parse_slice("v5e:8x16")) == 7 + 8
    assert hops("collective-permute", parse_slice("v5e:8x16")) == 1
