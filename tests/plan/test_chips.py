"""Chip figures and the names of slices."""

from __future__ import annotations

import pytest

from dedn_jax.errors import InputError
from dedn_jax.plan.chips import CHIPS, parse_slice


def test_figures_add_up_to_the_published_ones() -> None:
    # Bidirectional GB/s of a chip, as the vendor's pages give them.
    published = {"v5e": 400e9, "v5p": 1200e9, "v6e": 800e9, "v4": 600e9}
    both_ways = {name: 2 * 2 * chip.dimensions * chip.link for name, chip in CHIPS.items()}
    assert both_ways == published
    # All-reduce bandwidth of a v5e pod of 256 chips: 51.2 TB/s.
    assert 256 * both_ways["v5e"] / 2 == 51.2e12
    # FLOPs per byte of memory traffic lie within a generation of each other.
    assert all(150 < c.flops / c.bandwidth < 600 for c in CHIPS.values())


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "links"),
    [
        ("v5e:2x4", 8, 2, 2),  # a mesh: one ring through all chips
        ("v5e:8x16", 128, 32, 2),  # one axis is a ring
        ("v5e:16x16", 256, 64, 4),
        ("v4:2x2x4", 16, 4, 2),  # less than a cube of 4 x 4 x 4
        ("v5p:4x4x8", 128, 32, 6),
        ("v5e:1x2", 2, 1, 1),
    ],
)
def test_slices(name: str, chips: int, hosts: int, links: int) -> None:
    on = parse_slice(name)
    assert (on.chips, on.hosts, on.links) == (chips, hosts, links)


@pytest.mark.parametrize("name", ["v5e", "v7-8", "v9:2x2", "v5e:2x2x2", "v5e:0x4", ""])
def test_other_names_are_refused_with_examples(name: str) -> None:
    with pytest.raises(InputError, match="v5e:16x16"):
        parse_slice(name)


@pytest.mark.parametrize(
    ("name", "slice_name"),
    [
        ("v5litepod-1", "v5e:1x1"),
        ("v5litepod-8", "v5e:2x4"),
        ("v5litepod-256", "v5e:16x16"),
        ("v6e-8", "v6e:2x4"),
        ("v6e-32", "v6e:4x8"),
        ("v5p-8", "v5p:2x2x1"),  # of v5p and v4 the name counts cores
        ("v5p-16", "v5p:2x2x2"),
        ("v4-32", "v4:2x2x4"),
        ("v5p-64", "v5p:2x4x4"),
        ("v5p-512", "v5p:4x8x8"),
    ],
)
def test_names_by_which_slices_are_rented(name: str, slice_name: str) -> None:
    assert parse_slice(name) == parse_slice(slice_name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5litepod-12", "has 12 chips: expected a power of two up to 256"),
        ("v6e-512", "has 512 chips"),
        ("v5p-15", "has 15 cores, 2 a chip: expected a power of two up to 8192"),
        ("v9-8", "expected one of v4-N, v5litepod-N"),
    ],
)
def test_names_that_none_has(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_slice(name)
