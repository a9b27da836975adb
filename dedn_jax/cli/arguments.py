"""Flags that several jobs share."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from dedn_jax.buckets.mirror import workdir_path
from dedn_jax.buckets.outputs import output_path
from dedn_jax.errors import InputError
from dedn_jax.parallel.limits import (
    JOIN_TIMEOUT,
    LONGEST_TIMEOUT,
    SILENCE_TIMEOUT,
    STALL_TIMEOUT,
)
from dedn_jax.paths import local_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from dedn_jax.inference.candidates import Candidates
    from dedn_jax.inference.run import Run
    from dedn_jax.training.profiling import Profile


# Types of flags: of a path (shells leave `~` alone in `--flag=~/x`), and of a file to write or a
# work directory, which may be in a bucket.
path_flag, output_flag, workdir_flag = local_path, output_path, workdir_path


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a run with several processes, and how long it may wait for what."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one process of several, which find each other (Cloud TPU pods, GKE, Slurm)",
    )
    parser.add_argument("--coordinator", help="host:port of process 0, where they do not")
    parser.add_argument("--processes", type=int, help="number of processes")
    parser.add_argument("--process", type=int, help="index of this process, from 0")
    for flag, seconds, text in (
        ("--join-timeout", JOIN_TIMEOUT, "to wait at the start for the other processes"),
        ("--silence-timeout", SILENCE_TIMEOUT, "after which a silent process counts as gone"),
        ("--stall-timeout", STALL_TIMEOUT, "after which work that does not get on ends the run"),
    ):
        parser.add_argument(
            flag,
            type=_seconds,
            default=seconds,
            metavar="SECONDS",
            help=f"seconds {text} ({seconds:.0f})",
        )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(
            f"{text}, expected seconds from 1 to {LONGEST_TIMEOUT:.0f}"
        )
    return value


def joins_processes(args: argparse.Namespace) -> bool:
    """Whether the flags of `add_processes` are there and ask for several processes."""
    return bool(getattr(args, "distributed", False) or getattr(args, "coordinator", None))


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes, if the flags of `add_processes` ask for several.

    From here on the process ends when it waits for nothing, alone or with others, until `at_end`
    of `args`, an ExitStack of the command line, closes.
    """
    from dedn_jax.parallel.joining import initialize
    from dedn_jax.parallel.watchdog import Watchdog

    several = (args.coordinator, args.processes, args.process)
    given = [flag is not None for flag in several]
    if any(given) and not all(given):
        raise InputError("give all of --coordinator, --processes and --process, or none")
    if any(given) or args.distributed:
        limits = {"join_timeout": args.join_timeout, "silence_timeout": args.silence_timeout}
        initialize(*several, **limits)
    watchdog = Watchdog(args.silence_timeout, args.stall_timeout)
    watchdog.start()
    args.at_end.callback(watchdog.stop)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `chosen_profile` reads."""
    parser.add_argument(
        "--profile",
        metavar="START:STOP",
        help="write a trace of these steps, counted from 1, for TensorBoard and Perfetto",
    )


def chosen_profile(args: argparse.Namespace) -> AbstractContextManager[Profile | None]:
    """What the flag of `add_profile` asks for, to be entered around the training.

    Raises:
      InputError: not START:STOP.
    """
    if args.profile is None:
        return nullcontext()
    from dedn_jax.training.profiling import Profile
    from dedn_jax.training.workdir import Workdir

    return Profile.from_flag(args.profile, Workdir(args.workdir).tensorboard)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`."""
    parser.add_argument(
        "--config",
        required=True,
        help="recipe file or name, such as configs/cub_gzsl.py, or RUN/config.json to repeat a run",
    )
    parser.add_argument(
        "--help-config",
        action=_HelpConfig,
        nargs=0,
        help="show every --config.section.field=value with its default, and exit",
    )


def chosen_config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """What `--config` names with its overrides, backbone and transform as its feature store's.

    Raises:
      InputError: as `load_config` and `with_store_choices`.
    """
    from dedn_jax.config import load_config, override_fields
    from dedn_jax.data.features.store.choices import with_store_choices

    config = load_config(args.config, overrides)
    return with_store_choices(config, override_fields(overrides, args.config))


class _HelpConfig(argparse.Action):
    """Prints all config fields and ends, as `--help` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from dedn_jax.config_fields import fields_text

        print(fields_text())
        parser.exit()


def add_pictures(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Adds pictures, as many as `nargs` says, for `find_pictures`."""
    parser.add_argument(
        "pictures",
        nargs=nargs,
        type=path_flag,
        metavar="PICTURE|FOLDER",
        help="files, and folders to look for pictures in",
    )


def add_attributes(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `run_candidates` reads."""
    parser.add_argument(
        "--attributes",
        type=path_flag,
        metavar="FILE",
        help="names of the attributes, one a line, such as CUB's attributes.txt, where the run's "
        "data set has none",
    )


def run_candidates(args: argparse.Namespace, run: Run) -> Candidates:
    """A run's candidates, attributes named as the flag of `add_attributes` says.

    Raises:
      InputError: the file cannot be used, or is of another data set.
    """
    return (
        run.candidates.with_attribute_names(args.attributes) if args.attributes else run.candidates
    )


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `chosen_candidates` reads."""
    add_attributes(parser)
    parser.add_argument(
        "--among", choices=("all", "seen", "unseen"), default="all", help="which candidates"
    )
    parser.add_argument(
        "--classes",
        type=path_flag,
        metavar="FILE",
        help="new classes, unseen: a CSV file with the header name,<attribute>,... (any order) and "
        "a row for each class, on the scale of `dedn predict --write-classes`",
    )
    parser.add_argument(
        "--only", action="store_true", help="the classes of --classes in place of the run's"
    )


def check_candidates(args: argparse.Namespace) -> None:
    """Checks the flags of `add_candidates`, before a run is opened.

    Raises:
      InputError: one that has no effect.
    """
    if args.only and not args.classes:
        raise InputError("--only: there are no new classes; give them with --classes=FILE.csv")


def chosen_candidates(args: argparse.Namespace, candidates: Candidates) -> Candidates:
    """Of `run_candidates`, changed as the flags of `add_candidates` say.

    Raises:
      InputError: classes that cannot be used, or none are left.
    """
    if args.classes:
        candidates = candidates.with_new(args.classes, only=args.only)
    return candidates.only(args.among)
