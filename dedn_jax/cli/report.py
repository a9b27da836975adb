"""`dedn report`."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.buckets.mirror import publish
from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import path_flag, workdir_flag
from dedn_jax.errors import InputError


def add_report(jobs: Any) -> None:
    """Adds `dedn report` to the jobs."""
    report = jobs.add_parser(
        "report",
        help="a page about finished runs: results, curves, classes, attributes",
        description="Writes one page that needs nothing else, and its numbers as report.json, "
        "classes.csv, attributes.csv and table.tex: of a run, of several side by side, or of a "
        "sweep. Fields that do not change the numbers can be overridden: --config.data.path=FILE",
    )
    report.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        type=workdir_flag,
        metavar="RUN",
        help="directories of finished runs, or of one sweep",
    )
    report.add_argument(
        "--out",
        type=path_flag,
        help="folder to write to; needed for several runs, else RUN/report",
    )
    report.add_argument(
        "--show-test",
        action="store_true",
        help="of a sweep: the test sets of every point, for a table; not to choose by them",
    )
    report.set_defaults(run=_report, overrides=True)


def _report(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.inference.report.write import write_report, write_reports, write_sweep_report
    from dedn_jax.inference.run import open_run
    from dedn_jax.sweep.folder import SWEEP_FILE

    if args.out and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out: {args.out} is a file, expected a folder; choose another")
    sweeps = [path for path in args.workdir if (path / SWEEP_FILE).is_file()]
    if args.show_test and not sweeps:
        raise InputError("--show-test: only applies to a sweep; leave it out")
    if len(args.workdir) == 1:
        (path,) = args.workdir
        if sweeps:
            page = write_sweep_report(path, args.out, show_test=args.show_test)
        else:
            page = write_report(open_run(path, overrides), args.out)
    elif sweeps:
        raise InputError(f"--workdir: {sweeps[0]} holds a sweep; report it alone")
    elif args.out is None:
        raise InputError("--out is missing; name a folder for the report of several runs")
    else:
        page = write_reports([open_run(path, overrides) for path in args.workdir], args.out)
    publish(page.parent)
    print(with_addresses(f"Report: {page}"))
