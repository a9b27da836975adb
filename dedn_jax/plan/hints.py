"""What the numbers of a plan's row say about what to change."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dedn_jax.parallel.resident.rule import SHARE
from dedn_jax.plan.chips import Slice
from dedn_jax.plan.floor import attention_floor, step_floor
from dedn_jax.plan.gpus import LAUNCH
from dedn_jax.plan.sizes import Sizes

_WORTH = 1.25  # a hint is given from this gain on
_WASTED = 4  # so many times the chips that the gain is worth
_LARGEST = 8  # times the batch: beyond that a learning rate in proportion is a guess


class Hint(NamedTuple):
    """A change and what it is worth.

    Attributes:
      gain: by which factor the work of a slice grows, at best.
      text: for the reader.
    """

    gain: float
    text: str


def step_hints(config: ConfigDict, sizes: Sizes, on: Slice, row: dict[str, Any]) -> list[str]:
    """Hints for a training step on feature maps, the most worthwhile first.

    Args:
      config: the recipe.
      sizes: of the data.
      on: the slice.
      row: of `Planner.train`, with its times.
    """
    images = row["batch_padded"] // row["num_shards"]
    found = (
        _half_precision(config, sizes, on, row, images),
        _one_model_a_chip(config, sizes, on, row),
        _larger_batch(config, sizes, on, row, images),
    )
    return [hint.text for hint in sorted(filter(None, found), reverse=True)]


def _half_precision(
    config: ConfigDict, sizes: Sizes, on: Slice, row: dict[str, Any], images: int
) -> Hint | None:
    """Maps in 16 bits take half the memory, and their products one pass."""
    if sizes.dtype != "float32":
        return None
    reasons = []
    passes = on.chip.passes[config.model.precision]
    saved = attention_floor(config, sizes, images, on.chip).compute * (1 - 1 / passes)
    gain = row["step_seconds"] / max(row["step_seconds"] - saved, 1e-9)
    if gain >= _WORTH:
        reasons.append(
            f"products of float32 maps take {passes:.3g} times as long as those of bfloat16 "
            f"ones ({1e3 * saved:.2f} of {1e3 * row['step_seconds']:.2f} ms)"
        )
    if row["residency"] != "replicated":
        size = row["feature_bytes"] / 1e9
        reasons.append(f"{size / 2:.2f} GB of maps on every chip instead of {size:.2f}")
        gain = max(gain, _WORTH)
    return Hint(gain, "--config.data.dtype=bfloat16: " + "; ".join(reasons)) if reasons else None


def _one_model_a_chip(
    config: ConfigDict, sizes: Sizes, on: Slice, row: dict[str, Any]
) -> Hint | None:
    """Where many chips are hardly faster than one could be, each can train a model of its own."""
    compiled = row["compiled"]
    one = Slice(on.name, on.chip, (1,) * len(on.axes))
    alone = step_floor(
        config,
        sizes,
        sizes.batch,
        one,
        compiled["parameters"],
        compiled["model_state"],
        "replicated",
    )
    gain = alone.seconds / row["step_seconds"]
    fits = row["feature_bytes"] <= SHARE * on.chip.memory
    if not fits or on.chips < _WASTED * gain or on.chips < _WASTED:
        return None
    return Hint(
        on.chips / gain,
        f"`dedn sweep --seeds={on.chips}`, one model a chip: {on.chips} chips together are "
        f"{gain:.2g} times as fast as one at its floor of {1e3 * alone.seconds:.2f} ms a step",
    )


def _larger_batch(
    config: ConfigDict, sizes: Sizes, on: Slice, row: dict[str, Any], images: int
) -> Hint | None:
    """Where most of a step does not grow with its images, more of them are nearly free."""
    fixed = _fixed(config, sizes, on, row)
    grows = row["step_seconds"] - fixed
    if grows <= 0 or fixed < grows:
        return None
    factor = 2 ** int(math.log2(min(_LARGEST, fixed / grows)))
    batch = row["num_shards"] * images * factor
    seconds = fixed + factor * grows
    gain = batch / sizes.batch * row["step_seconds"] / seconds
    if factor == 1 or gain < _WORTH or batch > sizes.images:
        return None
    o = config.optimizer
    rate = o.learning_rate * batch / o.reference_batch
    return Hint(
        gain,
        f"--config.train.batch_size={batch} --config.optimizer.scale_with_batch=True (learning "
        f"rate {rate:.2g}): {batch / sizes.batch:.1f} times the images in about "
        f"{1e3 * seconds:.2f} ms a step; accuracy is not planned",
    )


def _fixed(config: ConfigDict, sizes: Sizes, on: Slice, row: dict[str, Any]) -> float:
    """Seconds of a step that do not grow with its images: what it would take without any."""
    compiled = row["compiled"]
    idle = step_floor(config, sizes, 0, on, compiled["parameters"], compiled["state"], "replicated")
    exchange = idle.exchange
    if row["schedule"] and row["residency"] != "sharded":
        exchange = row["schedule"]["exchange"]
    launches = compiled.get("launches", {"launches": 0, "in_loops": 0})
    outside = launches["launches"] - launches["in_loops"]
    return float(idle.compute + idle.memory + exchange + outside * LAUNCH)
