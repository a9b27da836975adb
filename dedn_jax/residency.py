"""The rule by which feature maps stay on the devices, or do not."""

from __future__ import annotations

from typing import Literal

Residency = Literal["always", "cut", "never"]
SHARE = 0.6  # of the memory that is free, for features that stay there
# To hand a batch out, every device takes part in a sum of the size of the whole batch, however many
# there are; a host that sends batches sends its part of one. Links between chips are about ten
# times as fast as those from a host, so that beyond so many hosts sending is the faster way.
MOST_PROCESSES = 8


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
