"""The time a program takes on a slice at its peaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dedn_jax.plan.chips import Slice

# Passes of bfloat16 products that make one product of that precision; what the matrix
# unit multiplies is bfloat16 always. Source: jax.lax.Precision: HIGHEST, HIGH, DEFAULT.
PASSES = {"float32": 6, "tensorfloat32": 3, "bfloat16": 1}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The time of one run of a program on a slice at its peaks.

    Attributes:
      flops: of a chip's products, loops counted as often as they run.
      share: FLOPs of a chip if the work were divided evenly.
      compute: seconds of products.
      memory: seconds of the bytes that XLA counts. Those are operands and results of every
        operation: more than HBM sees where they stay on the chip, less where a loop's body, which
        is counted once, does not.
      exchange: seconds of collectives, none of them hidden behind the products.
    """

    flops: float
    share: float
    compute: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory) + self.exchange


def ring_bytes(kind: str, size: float, chips: int) -> float:
    """What one chip sends for a collective over an array of `size` bytes, all in a ring.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce, 2009.
    """
    if chips == 1:
        return 0.0
    if kind == "collective-permute":
        return size
    return (2 if kind == "all-reduce" else 1) * size * (chips - 1) / chips


def loop_factor(answer: Mapping[str, Any]) -> float:
    """How many times as often the compiled loops run as with the work divided evenly."""
    return max(1.0, answer["trips_compiled"] / answer["trips"]) if answer["trips"] else 1.0


def roofline(answer: Mapping[str, Any], on: Slice, precision: str) -> Roofline:
    """The roofline of a worker's answer.

    Args:
      answer: see `worker.answer`.
      on: the slice it is for.
      precision: of the products, one of `PASSES`.
    """
    share = answer["flops_outside_loops"] + answer["flops_inside_loops"]
    flops = answer["flops_outside_loops"] + answer["flops_inside_loops"] * loop_factor(answer)
    # Of resident features a step reads only its batch, which XLA counts.
    read = answer["arguments"] - answer["resident"]
    moved = max(answer["bytes_xla"], read + answer["outputs"])
    sent = sum(
        ring_bytes(kind, traffic["bytes"], on.chips)
        for kind, traffic in answer["collectives"].items()
    )
    # Products of bfloat16 take one pass at every precision.
    single = answer["flops_bfloat16"] / share if share else 0.0
    passes = single + (1.0 - single) * PASSES[precision]
    return Roofline(
        flops=flops,
        share=share,
        compute=flops * passes / on.chip.flops,
        memory=moved / on.chip.bandwidth,
        exchange=sent / (on.links * on.chip.link) if sent else 0.0,
    )


def memory_needed(answer: Mapping[str, Any]) -> float:
    """Bytes of a chip's memory; an output that reuses an argument's memory costs nothing."""
    if "needed" in answer:
        return float(answer["needed"])
    outputs = answer["outputs"] - answer["aliased"]
    return float(answer["arguments"] + answer["temporaries"] + outputs + answer["code"])
