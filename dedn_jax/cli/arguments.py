"""Flags that several jobs share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedn_jax.errors import InputError


def path_flag(text: str) -> Path:
    """A path flag; the shell leaves the `~` of `--flag=~/x` to us."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def add_processes(parser: argparse.ArgumentParser) -> None:
    """The flags by which several processes find each other."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes that find each other: Cloud TPU pods, GKE, Slurm",
    )
    parser.add_argument("--coordinator", help="host:port of process 0, where they cannot")
    parser.add_argument("--processes", type=int, help="how many processes there are")
    parser.add_argument("--process", type=int, help="which one this is, from 0")


def joins_processes(args: argparse.Namespace) -> bool:
    """Whether the flags of `add_processes`, where the job has them, say that there are several."""
    return bool(getattr(args, "distributed", False) or getattr(args, "coordinator", None))


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes, if the flags of `add_processes` say that there are some."""
    several = (args.coordinator, args.processes, args.process)
    if all(flag is None for flag in several) and not args.distributed:
        return
    from dedn_jax.parallel import processes

    if args.distributed and all(flag is None for flag in several):
        processes.initialize()
    elif any(flag is None for flag in several):
        raise InputError("--coordinator, --processes and --process belong together; give all")
    else:
        processes.initialize(*several)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`."""
    parser.add_argument(
        "--config", required=True, help="recipe file or name, such as configs/cub_gzsl.py"
    )
