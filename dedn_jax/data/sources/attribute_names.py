"""Attribute names from the text files that come with the data sets."""

from __future__ import annotations

import re
from pathlib import Path

from dedn_jax.errors import InputError

_MAX_BYTES = 2**20  # a list of names; CUB's has 11 kB


def read_attribute_names(path: str | Path) -> tuple[str, ...]:
    """One name a line, a leading number dropped: `7 has_bill_shape::all-purpose`, `no horizon`.

    Reads CUB's `attributes.txt`, AWA2's `predicates.txt` and plain lists; blank lines are skipped.

    Raises:
      InputError: no such file, no text, no names, or a name twice.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: over {_MAX_BYTES} bytes, expected one attribute name a line")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file of attribute names") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; expected one attribute name a line") from error
    names = [re.sub(r"^\s*\d+[.:)]?\s+", "", line).strip() for line in lines]
    names = [name for name in names if name]
    if not names:
        raise InputError(f"{path}: holds no attribute names; expected one a line")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: attribute {twice!r} stands there twice; rename one")
    return tuple(names)
