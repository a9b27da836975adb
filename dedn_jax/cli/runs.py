"""`dedn train`, `demo`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
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


def add_train(jobs: Any) -> None:
    """Adds `dedn train` to the jobs."""
    train = jobs.add_parser(
        "train",
        help="train from a recipe, or resume",
        description="Trains from a recipe into a work directory; the same command resumes an "
        "interrupted run. Any field can be overridden: --config.train.epochs=40",
    )
    add_config(train)
    train.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the run")
    add_profile(train)
    add_processes(train)
    train.set_defaults(run=_train, overrides=True)


def add_demo(jobs: Any) -> None:
    """Adds `dedn demo` to the jobs."""
    demo = jobs.add_parser(
        "demo",
        help="draw the built-in data set, train, evaluate, report",
        description="Runs configs/demo.py, from drawn pictures to a report.",
    )
    demo.add_argument(
        "--workdir", type=workdir_flag, default=Path("runs/demo"), help="directory of the run"
    )
    demo.set_defaults(run=_demo, overrides=True)


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.inference.run import train
    from dedn_jax.parallel.processes import is_main
    from dedn_jax.training.interrupt import StopOnSignals
    from dedn_jax.training.protocol import result_text

    profiling = chosen_profile(args)
    config = chosen_config(args, overrides)
    join_processes(args)
    with profiling as profile:
        callbacks = [profile] if profile else []
        run = train(config, args.workdir, callbacks=callbacks, stop=StopOnSignals())
    if is_main():
        print(result_text(run.result))


def _demo(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.config import load_config
    from dedn_jax.inference.report.write import write_report
    from dedn_jax.inference.run import train
    from dedn_jax.training.interrupt import StopOnSignals
    from dedn_jax.training.protocol import result_text

    run = train(load_config("demo", overrides), args.workdir, stop=StopOnSignals())
    print(result_text(run.result))
    print(f"Report: {write_report(run)}")
    workdir = f"--workdir={shlex.quote(str(args.workdir))}"
    print(f"A page to try it on, which needs the extra [serve]: dedn serve {workdir}")
    print(f"Pictures of yours: dedn predict {workdir} PICTURE ...")
    print(f"Why a picture gets its class: dedn explain {workdir} PICTURE ... --out=FOLDER")
