"""The `dedn` command: one thin subcommand per job."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence

from dedn_jax.buckets.outputs import upload_outputs
from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import joins_processes
from dedn_jax.cli.compare import add_compare
from dedn_jax.cli.completion import add_completion
from dedn_jax.cli.data import add_data
from dedn_jax.cli.endings import TOGETHER, ending_of
from dedn_jax.cli.evaluate import add_evaluate
from dedn_jax.cli.explain import add_explain, add_localise
from dedn_jax.cli.export import add_export
from dedn_jax.cli.features import add_features
from dedn_jax.cli.info import add_info
from dedn_jax.cli.plan import add_plan
from dedn_jax.cli.platforms import leave_out_absent_tpus
from dedn_jax.cli.predict import add_predict
from dedn_jax.cli.quiet import quiet_libraries
from dedn_jax.cli.report import add_report
from dedn_jax.cli.runs import add_demo, add_train
from dedn_jax.cli.serve import add_serve
from dedn_jax.cli.signals import end_on_second_signal
from dedn_jax.cli.streams import drop_output, flush_output, prepare_streams
from dedn_jax.cli.sweep import add_sweep
from dedn_jax.errors import one_line, printable
from dedn_jax.version import __version__

# Seconds that a job which has failed may take to leave.
_LEAVING = 10.0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all jobs."""
    parser = argparse.ArgumentParser(
        prog="dedn",
        description="Dual Expert Distillation Network for generalized zero-shot learning",
    )
    parser.add_argument("--version", action="version", version=f"dedn-jax {__version__}")
    parser.set_defaults(run=lambda *_: _list_jobs(parser), overrides=False)
    jobs = parser.add_subparsers(dest="job", metavar="JOB")
    for add in (
        add_train,
        add_sweep,
        add_evaluate,
        add_predict,
        add_explain,
        add_localise,
        add_serve,
        add_demo,
        add_report,
        add_export,
        add_data,
        add_features,
        add_plan,
        add_compare,
        add_info,
        add_completion,
    ):
        add(jobs)
    return parser


def _list_jobs(parser: argparse.ArgumentParser) -> int:
    """What `dedn` alone does."""
    parser.print_help(sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, as `ending_of` lists them."""
    with contextlib.ExitStack() as at_end:
        return _run(argv, at_end)


def _run(argv: Sequence[str] | None, at_end: contextlib.ExitStack) -> int:
    """As `main`; `at_end` is closed by it, and ends what a job has started beside itself."""
    parser = make_parser()
    several = False
    try:
        args, rest = parser.parse_known_args(argv)
        args.at_end = at_end
        unknown = [a for a in rest if not (args.overrides and a.startswith("--config."))]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        several = joins_processes(args)
        quiet_libraries()
        leave_out_absent_tpus()
        status = args.run(args, rest) or 0
        upload_outputs()
        flush_output()
        return status
    except (Exception, KeyboardInterrupt) as error:
        try:
            line, status, of_others = ending_of(error, several)
        except Exception:  # a mistake of ours: the others need not wait for a sign of life
            if several:
                from dedn_jax.parallel.watchdog import take_leave

                take_leave(printable(f"{type(error).__name__}: {one_line(error)}"), False)
            raise
        line = printable(with_addresses(line))
    if several and status not in TOGETHER:
        from dedn_jax.parallel.watchdog import take_leave

        take_leave(line, of_others)
    elif line:
        print(f"dedn: {line}", file=sys.stderr)
    return status


def console() -> None:
    """The `dedn` command: runs `main` and ends the process."""
    prepare_streams()
    end_on_second_signal()
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    drop_output()
    if status not in TOGETHER and "jax" in sys.modules:
        import jax

        if jax.distributed.is_initialized():
            # JAX's own exit waits minutes for the other processes, which do not come.
            os._exit(status)
    if status not in TOGETHER:
        # A library's thread may wait for ever for what has failed, as for a checkpoint.
        end = threading.Timer(_LEAVING, os._exit, (status,))
        end.daemon = True
        end.start()
    sys.exit(status)


if __name__ == "__main__":
    console()
