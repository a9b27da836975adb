"""Flags that several jobs share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedn_jax.errors import InputError


def path_flag(text: str) -> Path:
    """A path flag, with `~` expanded: shells leave it alone in `--flag=~/x`."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a run with several processes."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one process of several, which find each other (Cloud TPU pods, GKE, Slurm)",
    )
    parser.add_argument("--coordinator", help="host:port of process 0, where they do not")
    parser.add_argument("--processes", type=int, help="number of processes")
    parser.add_argument("--process", type=int, help="index of this process, from 0")


def joins_processes(args: argparse.Namespace) -> bool:
    """Whether the flags of `add_processes` are there and ask for several processes."""
    return bool(getattr(args, "distributed", False) or getattr(args, "coordinator", None))


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes, if the flags of `add_processes` ask for several."""
    several = (args.coordinator, args.processes, args.process)
    if all(flag is None for flag in several) and not args.distributed:
        return
    from dedn_jax.parallel import processes

    if args.distributed and all(flag is None for flag in several):
        processes.initialize()
    elif any(flag is None for flag in several):
        raise InputError("give all of --coordinator, --processes and --process, or none")
    else:
        processes.initialize(*several)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`."""
    parser.add_argument(
        "--config", required=True, help="recipe file or name, such as configs/cub_gzsl.py"
    )
