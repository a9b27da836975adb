"""The time of a collective on a slice: its latency and its bytes."""

from __future__ import annotations

from typing import NamedTuple

from dedn_jax.plan.chips import Slice

# Seconds from a chip to its neighbour. Source: Austin et al., How to Scale Your Model, 2025
# (jax-ml.github.io/scaling-book/sharding), which gives about one microsecond a hop.
HOP = 1e-6


def ring_bytes(kind: str, size: float, chips: int) -> float:
    """What one chip sends for a collective over an array of `size` bytes, all in a ring.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce, 2009.
    """
    if chips == 1:
        return 0.0
    if kind == "collective-permute":
        return size
    return (2 if kind == "all-reduce" else 1) * size * (chips - 1) / chips


def hops(kind: str, on: Slice) -> int:
    """Neighbours that the last number has to pass; an all-reduce goes there and back.

    Along an axis that is a ring, half of it; else all of it.
    """
    if kind == "collective-permute":
        return 1
    far = sum(n // 2 if ring else n - 1 for n, ring in zip(on.axes, on.rings, strict=True))
    return (2 if kind == "all-reduce" else 1) * far


class Exchange(NamedTuple):
    """Seconds of a collective.

    Attributes:
      sending: of its bytes.
      latency: of its hops.
    """

    sending: float
    latency: float


def exchange(kind: str, size: float, chips: int, on: Slice) -> Exchange:
    """The time of a collective.

    Args:
      kind: one of `COLLECTIVES`.
      size: bytes of the full arrays.
      chips: that take part. Fewer than all are taken to be as far apart as all are.
      on: the slice.
    """
    if chips <= 1:
        return Exchange(0.0, 0.0)
    sent = ring_bytes(kind, size, chips)
    return Exchange(sent / (on.links * on.chip.link), hops(kind, on) * HOP)
