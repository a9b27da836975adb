"""What this process is doing, for a watchdog to see whether it gets on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Pulse:
    """A count that grows while work gets on.

    Attributes:
      count: of signs of life.
      doing: what was done at the last of them.
    """

    count: int = 0
    doing: str = "starting"

    def beat(self, doing: str) -> None:
        """Notes that work got on."""
        self.count += 1
        self.doing = doing


# Of this process: bars of progress beat it, and a watchdog reads it.
PULSE = Pulse()
