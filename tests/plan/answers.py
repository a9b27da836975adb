"""What a worker of `dedn plan` might answer."""

from __future__ import annotations

from typing import Any


def made_up_answer(flops: float, chips: int = 1, **more: Any) -> dict[str, Any]:
    """Of a training step whose products are in bfloat16; a megabyte wherever bytes are counted.

    Args:
      flops: of a chip.
      chips: that it is compiled for.
      more: what only some devices have, such as `schedule`.
    """
    return {
        **dict.fromkeys(("arguments", "outputs", "aliased", "temporaries", "code"), 1e6),
        "chips": chips,
        "flops": flops,
        "flops_bfloat16": flops,
        "resident": 0,
        "parameters": 40e6,
        "state": 120e6,
        "model_state": 120e6,
        "unknown_loops": 0,
        "collectives": {},
        "compile_seconds": 1.0,
        **more,
    }
