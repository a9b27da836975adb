"""The rule by which feature maps are resident, or streamed."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError

# In device memory, all images on every device or a shard of them on each; "never": streamed.
Residency = Literal["replicated", "sharded", "never"]
SHARE = 0.6  # of the free device memory, for resident features
# To look up a sharded batch, every device takes part in a sum of the size of the whole batch,
# however many there are; a host that streams sends its shard of one. Links between chips are about
# ten times as fast as those from a host, so that with more processes streaming is the faster way.
MAX_PROCESSES = 8


def requested(on_device: str, strategy: str, *, pictures: bool, shards: int) -> Residency | None:
    """What a config asks for; None: "auto", for which `residency` is the rule.

    Args:
      on_device: `config.data.on_device`.
      strategy: `config.distribution.strategy`; `pmap` streams.
      pictures: whether the inputs are pictures, which are always streamed.
      shards: of a batch.

    Raises:
      InputError: contradictory settings.
    """
    if on_device == "never" or strategy == "pmap":
        return "never"
    if pictures:
        if on_device != "auto":
            raise InputError(
                f"config.data.on_device={on_device}: pictures cannot be resident, only feature "
                "maps; use auto"
            )
        return "never"
    if on_device == "sharded" and shards == 1:
        raise InputError(
            "config.data.on_device=sharded: a batch has one shard here, so there is nothing to "
            "shard over; use auto"
        )
    return None if on_device == "auto" else on_device  # type: ignore[return-value]


def half_is_enough(dtype: str, precision: str) -> bool:
    """Whether 16 bits of each number serve as well: products would round float32 maps to them.

    Args:
      dtype: of the maps.
      precision: `config.model.precision`.
    """
    return dtype == "float32" and precision == "bfloat16"


def residency(
    needed: float, free: float, shards: int, processes: int, *, half: bool = False
) -> tuple[Residency, bool]:
    """Where feature maps are resident, and whether in half the bits.

    Replicated where that takes at most 60 % of the free memory; else in half the bits, if that
    does; else sharded, if that does.

    Args:
      needed: bytes of all feature maps.
      free: bytes on the device that has the least.
      shards: of a batch, and so of the images.
      processes: that own the devices; with more than `MAX_PROCESSES` nothing is sharded.
      half: whether half the bits are enough, see `half_is_enough`.
    """
    if needed <= SHARE * free:
        return "replicated", False
    least = needed / 2 if half else needed
    if least <= SHARE * free:
        return "replicated", True
    if shards > 1 and processes <= MAX_PROCESSES and least <= SHARE * free * shards:
        return "sharded", half
    return "never", False
