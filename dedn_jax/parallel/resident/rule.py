"""The rule by which feature maps stay on the devices, or do not."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError

Residency = Literal["always", "cut", "never"]
SHARE = 0.6  # of the memory that is free, for features that stay there
# To hand a batch out, every device takes part in a sum of the size of the whole batch, however many
# there are; a host that sends batches sends its part of one. Links between chips are about ten
# times as fast as those from a host, so that beyond so many hosts sending is the faster way.
MOST_PROCESSES = 8


def allowed(on_device: str, strategy: str, *, pictures: bool, parts: int) -> Residency | None:
    """What a config wants; None: "auto", for which `residency` has the rule.

    Args:
      on_device: `config.data.on_device`.
      strategy: `config.distribution.strategy`; `pmap` is sent its batches.
      pictures: whether the inputs are, which are always sent.
      parts: into which the images can be cut.

    Raises:
      InputError: what cannot be.
    """
    if on_device == "never" or strategy == "pmap":
        return "never"
    if pictures:
        if on_device != "auto":
            raise InputError(
                f"config.data.on_device={on_device}: pictures cannot stay on the device; use auto"
            )
        return "never"
    if on_device == "cut" and parts == 1:
        raise InputError("config.data.on_device=cut: no devices share a batch here; use auto")
    return None if on_device == "auto" else on_device  # type: ignore[return-value]


def residency(needed: float, free: float, parts: int, processes: int) -> Residency:
    """Whole on every device where that takes at most 60 % of what is free; else cut, if that does.

    Args:
      needed: bytes of all feature maps.
      free: bytes on the device that has the least.
      parts: into which their images can be cut.
      processes: that these belong to; among more than `MOST_PROCESSES` `auto` cuts nothing.
    """
    if needed <= SHARE * free:
        return "always"
    cut = parts > 1 and processes <= MOST_PROCESSES
    return "cut" if cut and needed <= SHARE * free * parts else "never"
