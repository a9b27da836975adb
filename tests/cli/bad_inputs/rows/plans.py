"""What `dedn plan` is given; nothing of it is compiled."""

from __future__ import annotations

from tests.cli.bad_inputs.world import Bad, World


def _plan(_: World, *flags: str) -> list[str]:
    return ["plan", "--config=cub_gzsl", "--config.data.path=none", *flags]


PLANS = [
    Bad(
        "a plan for nothing",
        _plan,
        "dedn plan",
        "give --topology",
        "such as v5e:4x8, or --device, such as h100",
    ),
    Bad(
        "no such GPU",
        lambda w: _plan(w, "--device=a9"),
        "--device",
        "'a9'",
        "expected h100 or h200",
    ),
    Bad(
        "no such slice to rent",
        lambda w: _plan(w, "--topology=v5litepod-12"),
        "--topology",
        "'v5litepod-12' has 12 chips",
        "give the sides, such as v5e:8x12",
    ),
    Bad(
        "a price that is no number",
        lambda w: _plan(w, "--topology=v5e:2x4,v6e:2x4", "--price=cheap"),
        "--price",
        "'cheap'",
        "expected a number or one for each chip of v5e, v6e, such as v5e=1.2",
    ),
]
