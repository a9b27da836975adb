"""The `dedn` command: one thin subcommand per job."""

from __future__ import annotations

import argparse
import codecs
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence

from dedn_jax import __version__
from dedn_jax.cli.arguments import joins_processes
from dedn_jax.cli.compare import add_compare
from dedn_jax.cli.data import add_data
from dedn_jax.cli.explain import add_explain, add_localise
from dedn_jax.cli.export import add_export
from dedn_jax.cli.features import add_features
from dedn_jax.cli.plan import add_plan
from dedn_jax.cli.platforms import leave_out_absent_tpus
from dedn_jax.cli.predict import add_predict
from dedn_jax.cli.quiet import quiet_libraries
from dedn_jax.cli.report import add_report
from dedn_jax.cli.runs import add_demo, add_evaluate, add_train
from dedn_jax.cli.serve import add_serve
from dedn_jax.cli.sweep import add_sweep
from dedn_jax.errors import InputError, one_line
from dedn_jax.training.interrupt import Interrupted

# What to do about errors of the operating system.
_ADVICE = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "; make room and give the command again"
) | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "; see to its permissions, or choose another place"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedn",
        description="Dual Expert Distillation Network for generalized zero-shot learning",
    )
    parser.add_argument("--version", action="version", version=f"dedn-jax {__version__}")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
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
    ):
        add(jobs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    0: done. 1: the training diverged, another process of the run ended, or pictures were skipped.
    2: an input cannot be used; the message says what to do. 128 + N: stopped by signal N with
    everything saved, so that a scheduler can tell an interruption from an end.
    """
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(argv)
    except InputError as error:  # a path flag
        print(f"dedn: {error}", file=sys.stderr)
        return 2
    unknown = [a for a in rest if not (args.overrides and a.startswith("--config."))]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    quiet_libraries()
    leave_out_absent_tpus()
    try:
        return args.run(args, rest) or 0
    except InputError as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("dedn: stopped", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read standard output has had enough, as `head` has; Python flushes it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "")
        print(f"dedn: {name}{error.strerror or error}{advice}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not joins_processes(args):
            raise
        # A collective operation raises it when another process has gone.
        print(
            f"dedn: another process of this run has ended, or cannot be reached ({one_line(error)})"
            "; see its output, and give the same command on all of them to go on from the last "
            "checkpoint",
            file=sys.stderr,
        )
        return 1


# What tables and texts hold, for terminals that have ASCII alone.
_PLAIN = {"±": "+-", "×": "x", "…": "...", "·": "*"}


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: signs in ASCII, other letters as escapes."""
    if isinstance(error, UnicodeEncodeError) and (sign := _PLAIN.get(error.object[error.start])):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)


def console() -> None:
    """The `dedn` command: runs `main` and ends the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of classes and pictures may have letters that a terminal has not.
        codecs.register_error("plain", _plain)
        sys.stdout.reconfigure(errors="plain")
    status = main()
    if status in (1, 2) and "jax" in sys.modules:
        import jax

        if jax.distributed.is_initialized():
            # JAX's own exit waits minutes for the other processes, which do not come.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    console()
