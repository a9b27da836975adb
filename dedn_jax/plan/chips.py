"""The table of chip figures, and the parser of slice names."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from dedn_jax.errors import InputError

EXAMPLES = "v4:2x2x4, v5e:2x4, v5e:16x16, v5p:2x2x2, v6e:4x8"


# Passes of bfloat16 products that make one product of that precision on a TPU, whose matrix unit
# multiplies bfloat16 always. Source: jax.lax.Precision: HIGHEST, HIGH, DEFAULT.
_PASSES = {"float32": 6.0, "tensorfloat32": 3.0, "bfloat16": 1.0}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, or a GPU.

    Attributes:
      name: as in the names of slices.
      flops: peak of bfloat16 products, FLOP/s.
      clock: cycles of a core in a second.
      memory: HBM, bytes.
      bandwidth: of HBM, bytes/s.
      on_chip: VMEM of all its cores, bytes.
      link: of one link to a neighbour in one direction, bytes/s.
      dimensions: of the torus; a chip has two links for each.
      hosted: chips of a host, in slices of several hosts.
      wraps: an axis of a slice is a ring if its length is a multiple of this; in three dimensions
        all axes have to be.
      compiled_as: the name of libtpu's chip configuration, None for its default.
      passes: how many times as long as a product of bfloat16 operands one of float32 operands
        takes, by `config.model.precision`.
      platform: of JAX, for which it is compiled.
    """

    name: str
    flops: float
    clock: float
    memory: float
    bandwidth: float
    on_chip: float
    link: float
    dimensions: int
    hosted: int
    wraps: int
    compiled_as: str | None = None
    passes: Mapping[str, float] = dataclasses.field(default_factory=lambda: _PASSES)
    platform: str = "tpu"


# Source: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. Links: the bidirectional bandwidth of a chip
# given there (v5e 400, v5p 1200, v6e 800 GB/s) over two directions and 4 or 6 links; v4: Jouppi et
# al., arXiv 2304.01433, six of 50 GB/s. VMEM: docs.jax.dev, Pallas, TPU details. Clocks: the peak
# over what the matrix units do in a cycle, four of 128 x 128 a core, of v6e four of 256 x 256. A v4
# chip's two cores work as one device unless libtpu is told otherwise, but topologies without
# hardware start with two.
CHIPS = {
    c.name: c
    for c in (
        Chip("v4", 275e12, 1.05e9, 32 * 2**30, 1200e9, 32 * 2**20, 50e9, 3, 4, 4, "megacore"),
        Chip("v5e", 197e12, 1.5e9, 16 * 2**30, 819e9, 128 * 2**20, 50e9, 2, 4, 16),
        Chip("v5p", 459e12, 1.75e9, 95 * 2**30, 2765e9, 128 * 2**20, 100e9, 3, 4, 4),
        Chip("v6e", 918e12, 1.75e9, 32 * 2**30, 1638e9, 128 * 2**20, 100e9, 2, 4, 16),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod.

    Attributes:
      name: such as `v5e:4x8`.
      chip: their generation.
      axes: number of chips along each axis of the torus.
    """

    name: str
    chip: Chip
    axes: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.axes)

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.hosted)

    @property
    def links(self) -> int:
        """Links of a chip that an all-reduce can use at once.

        Two for each axis that is a ring; a mesh without any still has one ring through all chips.
        """
        if self.chips <= 2:
            return self.chips - 1
        return 2 * max(1, sum(self.rings))

    @property
    def rings(self) -> tuple[bool, ...]:
        """Which axes are rings."""
        long = [n >= self.chip.wraps and n % self.chip.wraps == 0 for n in self.axes]
        is_torus = self.chip.dimensions == 2 or all(long)
        return tuple(ring and is_torus for ring in long)


# Prefixes of the names by which slices are rented: the chip, and what the name counts for each.
_RENTED = {
    "v4": ("v4", 2),
    "v5litepod": ("v5e", 1),
    "v5e": ("v5e", 1),
    "v5p": ("v5p", 2),
    "v6e": ("v6e", 1),
}
_LARGEST = {2: 256, 3: 4096}  # chips of a slice, by dimensions


def parse_slice(name: str) -> Slice:
    """Reads `v5e:4x8`, or the name by which it is rented, `v5litepod-32`.

    Raises:
      InputError: unknown chip, or not the name of a slice.
    """
    if rented := re.fullmatch(r"(\w+)-(\d+)", name):
        return _rented(name, rented[1], int(rented[2]))
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not match or match[1] not in CHIPS:
        raise InputError(
            f"--topology: {name!r}, expected a chip of {', '.join(CHIPS)} and the sides of a "
            f"slice, such as {EXAMPLES}, or a name of Google's, such as v5litepod-256 or v5p-16"
        )
    axes = tuple(map(int, match[2].split("x")))
    chip = CHIPS[match[1]]
    if not all(axes) or (chip.dimensions == 2 and len(axes) == 3 and axes[2] > 1):
        raise InputError(
            f"--topology: {name!r}: {chip.name} slices have {chip.dimensions} sides of 1 or more; "
            f"examples: {EXAMPLES}"
        )
    return Slice(name, chip, axes)


def _rented(name: str, prefix: str, count: int) -> Slice:
    """The slice of that name, its sides as nearly equal as powers of two are.

    Source: cloud.google.com/tpu/docs/supported-tpu-configurations; names of v4 and v5p count cores.
    """
    if prefix not in _RENTED:
        names = ", ".join(f"{known}-N" for known in _RENTED)
        raise InputError(
            f"--topology: {name!r}, expected one of {names}, or sides, such as {EXAMPLES}"
        )
    chip_name, cores = _RENTED[prefix]
    chip = CHIPS[chip_name]
    chips, left_over = divmod(count, cores)
    if left_over or chips not in [2**i for i in range(_LARGEST[chip.dimensions].bit_length())]:
        unit = f"cores, {cores} a chip" if cores > 1 else "chips"
        raise InputError(
            f"--topology: {name!r} has {count} {unit}: expected a power of two up to "
            f"{cores * _LARGEST[chip.dimensions]}; for other slices give the sides, such as "
            f"{chip.name}:{'x'.join(['8'] * (chip.dimensions - 1))}x12"
        )
    power, n = chips.bit_length() - 1, chip.dimensions
    sides = [2 ** ((power + i) // n) for i in range(n)]
    if chips < 8 and n == 3:  # a part of a host: 2x2x1
        sides.reverse()
    return Slice(f"{chip.name}:{'x'.join(map(str, sides))}", chip, tuple(sides))
