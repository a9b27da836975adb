"""`dedn sweep`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.cli.arguments import (
    add_config,
    add_processes,
    add_profile,
    chosen_config,
    chosen_profile,
    join_processes,
    workdir_flag,
)


def add_sweep(jobs: Any) -> None:
    """Adds `dedn sweep` to the jobs."""
    sweep = jobs.add_parser(
        "sweep",
        help="train many seeds at once, at every point of a grid",
        description="Trains models that differ in their seed in one program, for every point of a "
        "grid, and reports U, S, H and T1 with their mean, deviation and 95% interval of the "
        "mean: on validation classes for every point, on the test sets for the best of them. "
        "Model i starts from the parameters of `dedn train --config.seed=SEED+i`; all models "
        "share the batches and the validation split of SEED, so that features are read once: the "
        "intervals measure the effect of the initial parameters alone. Needs features, not "
        "pictures. Models are sharded over the devices if their number divides evenly. A model "
        "that diverges stops and is left out of the means, which say how many did; the others go "
        "on. The same command resumes an interrupted sweep. Any field can be overridden: "
        "--config.train.epochs=40",
    )
    add_config(sweep)
    sweep.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the sweep")
    sweep.add_argument("--seeds", required=True, type=int, help="number of models at every point")
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="SECTION.FIELD=A,B,C",
        help="a field to vary and its values; repeat the flag for all combinations",
    )
    sweep.add_argument(
        "--points",
        metavar="FILE",
        help="named points instead of a grid: a Python file with get_points(), or the name of one "
        "in configs/ablations/ (paper: the ablations of the paper)",
    )
    sweep.add_argument(
        "--show-test",
        action="store_true",
        help="show the test sets of every point, for a table of ablations; not to choose by them",
    )
    add_profile(sweep)
    add_processes(sweep)
    sweep.set_defaults(run=_sweep, overrides=True)


def _sweep(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.parallel.processes import is_main
    from dedn_jax.sweep.report import result_text
    from dedn_jax.sweep.run import run_sweep
    from dedn_jax.training.interrupt import StopOnSignals

    profiling = chosen_profile(args)
    join_processes(args)
    config = chosen_config(args, overrides)
    with profiling as profile:
        result = run_sweep(
            config,
            args.workdir,
            args.seeds,
            args.grid,
            points_file=args.points,
            callbacks=[profile] if profile else [],
            stop=StopOnSignals(),
        )
    if is_main():
        print(result_text(result, show_test=args.show_test))
