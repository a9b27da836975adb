"""Flags that several jobs share."""

from __future__ import annotations

import argparse
from pathlib import Path


def path_flag(text: str) -> Path:
    """A path flag; the shell leaves the `~` of `--flag=~/x` to us."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help="recipe file or name, such as configs/cub_gzsl.py"
    )
