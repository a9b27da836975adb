"""The floor of a step: FLOPs and bytes that no program for a chip can avoid, however well made.

Products: for each branch scores and logits and the gradient of both rows, four in all; the folding
of word vectors and its gradients; class scores. Main memory: the optimiser's state is read and
written, and the maps of a chip's images are read, twice where they do not stay on the chip between
the forward and the backward pass. Links: the gradients are added up, of the parameters or of the
folded rows, whichever are smaller, and what they change is handed out, in the dtype of the maps;
and maps that another chip has are sent. The three can overlap: a step takes at least the longest of
them.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from dedn_jax.model.dual_attention import BRANCHES
from dedn_jax.model.experts import EXPERTS
from dedn_jax.parallel.resident.rule import Residency
from dedn_jax.plan.chips import Chip, Slice
from dedn_jax.plan.exchange import exchange
from dedn_jax.plan.sizes import ITEM_BYTES, Sizes

BOUNDS = ("compute", "memory", "exchange")


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least that a chip does in one run.

    Attributes:
      flops: of products.
      moved: bytes through main memory.
      compute: seconds of the products at the peak of their precision.
      memory: seconds of the bytes.
      exchange: seconds of what chips send each other.
    """

    flops: float
    moved: float
    compute: float
    memory: float
    exchange: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """Which of compute, memory and exchange takes longest."""
        return max(BOUNDS, key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class _Experts:
    """Counts of the experts that a config has, on one chip."""

    config: ConfigDict
    sizes: Sizes

    @property
    def rows(self) -> int:
        """Attribute rows of all experts together."""
        experts = len(EXPERTS[self.config.model.experts])
        return experts * self.sizes.attributes // self.config.distribution.attribute_shards

    @property
    def dims(self) -> list[int]:
        """Length of a folded row for each branch."""
        lengths = {"region": self.sizes.channels, "channel": self.sizes.regions}
        return [lengths[branch] for branch in BRANCHES[self.config.model.branches]]

    @property
    def row_numbers(self) -> int:
        """Numbers of all folded rows."""
        return 2 * self.rows * sum(self.dims)

    def pooling_flops(self, images: int) -> float:
        position_pairs = self.sizes.channels * self.sizes.regions
        return 4 * 2.0 * images * self.rows * position_pairs * len(self.dims)

    def folding_flops(self) -> float:
        """Of V·H forward and both of its gradients."""
        word, rank = self.sizes.word_dim, self.config.model.rank
        per_row = 2 * sum(self.dims) * word
        if rank and "region" in BRANCHES[self.config.model.branches]:
            per_row += rank * (word + self.sizes.channels) - word * self.sizes.channels
        return 3 * 2.0 * self.rows * per_row

    def class_flops(self, images: int) -> float:
        """Of class scores and their gradient in the attribute scores."""
        experts = len(EXPERTS[self.config.model.experts])
        return 2 * 2.0 * images * experts * self.sizes.attributes * self.sizes.classes


def counted_floor(
    flops: float,
    single_pass: float,
    moved: float,
    chip: Chip,
    precision: str,
    links: float = 0.0,
) -> Floor:
    """Of a program whose work has been counted.

    Args:
      flops: of a chip's products.
      single_pass: those of bfloat16 operands, which take one pass at every precision.
      moved: bytes of arguments that have to be read and of results that have to be written.
      chip: the chip.
      precision: of the other products.
      links: seconds of what chips send each other.
    """
    compute = (single_pass + (flops - single_pass) * chip.passes[precision]) / chip.flops
    return Floor(flops, moved, compute, moved / chip.bandwidth, links)


def attention_floor(config: ConfigDict, sizes: Sizes, images: int, chip: Chip) -> Floor:
    """Of attention pooling alone, with the gradient of its rows.

    Args:
      config: the recipe.
      sizes: of the data.
      images: of a chip.
      chip: the chip.
    """
    experts = _Experts(config, sizes)
    flops = experts.pooling_flops(images)
    moved = _map_bytes(sizes, images, chip) + 2 * 4 * experts.row_numbers
    single_pass = flops if sizes.dtype == "bfloat16" else 0.0
    return counted_floor(flops, single_pass, moved, chip, config.model.precision)


def step_floor(
    config: ConfigDict,
    sizes: Sizes,
    images: int,
    on: Slice,
    parameters: float,
    state: float,
    residency: Residency,
) -> Floor:
    """Of a training step on feature maps.

    Args:
      config: the recipe.
      sizes: of the data; `sizes.picture` must be 0.
      images: of a chip.
      on: the slice.
      parameters: bytes of all parameters.
      state: bytes of a chip's parameters and optimiser slots.
      residency: of the feature maps.
    """
    chip, experts = on.chip, _Experts(config, sizes)
    pooling = experts.pooling_flops(images)
    rest = experts.folding_flops() + experts.class_flops(images)
    if config.teacher.workdir:  # of the same size; its forward pass
        pooling += experts.pooling_flops(images) / 2
        rest += experts.folding_flops() / 3 + experts.class_flops(images) / 2
    moved = _map_bytes(sizes, images, chip) + 2 * state
    single_pass = pooling if sizes.dtype == "bfloat16" else 0.0
    links = 0.0
    if on.chips > 1:
        gradients = min(parameters, 4.0 * experts.row_numbers)
        factors = min(parameters, float(ITEM_BYTES[sizes.dtype] * experts.row_numbers))
        links = sum(exchange("reduce-scatter", gradients, on.chips, on))
        links += sum(exchange("all-gather", factors, on.chips, on))
    if residency == "sharded":
        links += exchange("all-gather", images * sizes.map_bytes, on.chips, on).sending
    return counted_floor(pooling + rest, single_pass, moved, chip, config.model.precision, links)


def _map_bytes(sizes: Sizes, images: int, chip: Chip) -> float:
    """Bytes of a chip's maps, as often as they have to be read."""
    maps = float(images * sizes.map_bytes)
    return maps if maps <= chip.on_chip else 2 * maps
