"""Step time of every distillation objective beside the published one, at the size of a data set.

  python -m benchmarks.distillation_steps [--sizes=small,cub] [--objectives=none,agreement,kl] \
      [--rounds=7] [--channels=256] [--json=FILE]

The steps are interleaved: a ratio is of medians from the same rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import environment, interleaved_medians, text_table
from benchmarks.step_sizes import Size, add_flags, make_up, sizes_of
from dedn_jax.config import apply_overrides
from dedn_jax.interop.our_side import OurSide
from dedn_jax.model.distillation import OBJECTIVES

NONE, BASE = "none", "agreement"


def measure(size: Size, names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step with each objective, and over that of the published one."""
    made = make_up(size)
    calls: dict[str, Any] = {}
    for name in names:
        config = made.config.copy_and_resolve_references()
        config = apply_overrides(config, {"loss.distillation.name": name}, "--objectives")
        ours = OurSide(config, made.problem)
        batch = ours.batch(*made.problem.batches[0])

        def call(ours: OurSide = ours, batch: Any = batch) -> Any:
            ours.step(batch)
            return ours.state.step

        calls[name] = call
    medians = interleaved_medians(calls, rounds)
    return [
        {
            "size": size.name,
            "objective": name,
            "ms": 1e3 * seconds,
            "over agreement": seconds / medians[BASE] if BASE in medians else None,
        }
        for name, seconds in medians.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures each size, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--objectives", default=",".join((NONE, *OBJECTIVES)))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.objectives.split(",")]
    rounds = positive("--rounds", args.rounds)
    rows = [row for size in sizes_of(args) for row in measure(size, names, rounds)]
    table = text_table(rows, ["size", "objective", "ms", "over agreement"])
    show_report("\n".join(table), {"environment": environment(), "rows": rows}, args.json)


if __name__ == "__main__":
    run_benchmark("distillation_steps", main)
