"""Command-line parts that benchmarks share: flags, reports, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dedn_jax.errors import InputError
from dedn_jax.files import write_json


def run_benchmark(name: str, main: Callable[[], object]) -> None:
    """Runs a benchmark's `main`; an `InputError` ends it with one line."""
    try:
        main()
    except InputError as error:
        sys.exit(f"{name}: {error}")


def show_report(text: str, report: dict[str, Any], path: Path | None) -> None:
    """Prints a report, and writes its numbers to `path` if given."""
    print(text)
    if path:
        write_json(path, report)


def integers(flag: str, text: str, count: int | None = None) -> list[int]:
    """A comma-separated list of integers from 0; `count` of them if given.

    Raises:
      InputError: names the flag and what was found.
    """
    parts = text.split(",")
    if not all(p.strip().isdigit() for p in parts) or (count and len(parts) != count):
        wanted = f"{count} integers" if count else "integers"
        raise InputError(f"{flag}={text!r}, expected {wanted} from 0, separated by commas")
    return [int(p) for p in parts]


def positive(flag: str, value: int) -> int:
    """Returns `value`, which must be at least 1.

    Raises:
      InputError: names the flag and what was found.
    """
    if value < 1:
        raise InputError(f"{flag}={value}, expected at least 1")
    return value
