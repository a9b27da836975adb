"""The rule by which feature maps stay on the devices, or do not."""

from __future__ import annotations

from typing import Literal

Residency = Literal["always", "cut", "never"]
SHARE = 0.6  # of the memory that is free, for features that stay there


def residency(needed: float, free: float, parts: int) -> Residency:
    """Whole on every device where that takes at most 60 % of what is free; else cut, if that does.

    Args:
      needed: bytes of all feature maps.
      free: bytes on the device that has the least.
      parts: into which their images can be cut.
    """
    if needed <= SHARE * free:
        return "always"
    return "cut" if parts > 1 and needed <= SHARE * free * parts else "never"
