"""Attribute names from the text files that come with the data sets, and sentences on classes."""

from __future__ import annotations

import re
from pathlib import Path

from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines
from dedn_jax.paths import local_path

_MAX_BYTES = 2**20  # a list of names; CUB's has 11 kB


def read_attribute_names(path: str | Path) -> tuple[str, ...]:
    """One name a line: `has_bill_shape::all-purpose`, `no horizon`; blank lines are skipped.

    Numbers at the beginning of all lines that count them, from 0 or 1, are dropped, as of CUB's
    `attributes.txt` and AWA2's `predicates.txt`. Others are part of a name: `2 legs`.

    Raises:
      InputError: no such file, no text, no names, a name twice, or numbered lines in another order.
    """
    names = _lines(local_path(path), "attribute name")
    numbered = [re.match(r"(\d{1,9})[.:)]?\s+(?=\S)", name) for name in names]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(names) and sorted(numbers) in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        for place, number in enumerate(sorted(numbers)):
            if numbers[place] != number:
                raise InputError(
                    f"{path}: name {place + 1} is numbered {numbers[place]}, expected "
                    f"{number}; sort the lines by their numbers"
                )
        names = [name[match.end() :] for name, match in zip(names, numbered, strict=True) if match]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: attribute {twice[:64]!r} stands there twice; rename one")
    return tuple(names)


def read_sentences(path: str | Path) -> tuple[str, ...]:
    """One sentence a line, blank lines skipped.

    Raises:
      InputError: no such file, no text, or no sentences.
    """
    return tuple(_lines(local_path(path), "sentence"))


def _lines(path: Path, what: str) -> list[str]:
    found = read_text_lines(path, _MAX_BYTES, f"expected one {what} a line")
    lines = [line.strip() for line in found]
    if not any(lines):
        raise InputError(f"{path}: holds no {what}s; expected one a line")
    return [line for line in lines if line]
