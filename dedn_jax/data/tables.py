"""Tables that users write: CSV files, checked, with messages that name line and column."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.files import read_regular

_MAX_BYTES = 256 * 2**20
_MAX_CELL = 1000  # characters of a name or number, which messages quote
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_csv(path: Path, expected: str) -> list[tuple[int, list[str]]]:
    """Reads a CSV file of UTF-8 text.

    Args:
      path: the file.
      expected: what it should hold, for messages.

    Returns:
      Line numbers and cells, as `clean` leaves them; empty lines are left out.

    Raises:
      InputError: no such file, not a regular one, too large, empty, or not CSV.
    """
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, [clean(cell) for cell in row]) for row in reader]
    except InputError as error:
        raise InputError(f"{error}: {expected}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; create it with {expected}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: {error}; save it as CSV again"
        ) from error
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise InputError(f"{path}: the file is empty, expected {expected}")
    for line, row in rows:
        if (longest := max(map(len, row))) > _MAX_CELL:
            raise InputError(
                f"{path}: line {line}: a cell of {longest} characters, expected at most {_MAX_CELL}"
            )
    return rows


def clean(cell: str) -> str:
    """Normalised, on one line: names are printed on terminals and in reports."""
    text = " ".join(unicodedata.normalize("NFC", cell).split())
    return "".join(c for c in text if c.isprintable())


def finite_number(path: Path, line: int, column: str, cell: str) -> float:
    """The number in a cell, as float32 holds it.

    Raises:
      InputError: it is none, or not finite.
    """
    with np.errstate(over="ignore"):
        value = np.float32(cell) if _NUMBER.fullmatch(cell) else np.float32(np.nan)
    if not np.isfinite(value):
        comma = re.fullmatch(r"[+-]?\d*,\d+", cell)
        hint = "use a decimal point" if comma else "write it like 0.5"
        raise InputError(
            f"{path}: line {line}, column {column!r}: {cell[:64]!r} is not a finite number; {hint}"
        )
    return float(value)


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that was there before; None where all differ."""
    known: set[str] = set()
    for name in names:
        if name in known:
            return name
        known.add(name)
    return None
