"""Attribute names from the text files that come with the data sets, and sentences on classes."""

from __future__ import annotations

import re
from pathlib import Path

from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines
from dedn_jax.paths import local_path

_MAX_BYTES = 2**20  # a list of names; CUB's has 11 kB


def read_attribute_names(path: str | Path) -> tuple[str, ...]:
    """One name a line, a leading number dropped: `7 has_bill_shape::all-purpose`, `no horizon`.

    Reads CUB's `attributes.txt`, AWA2's `predicates.txt` and plain lists; blank lines are skipped.

    Raises:
      InputError: no such file, no text, no names, or a name twice.
    """
    lines = _lines(local_path(path), "attribute name")
    names = [re.sub(r"^\s*\d+[.:)]?\s+", "", line) for line in lines]
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
