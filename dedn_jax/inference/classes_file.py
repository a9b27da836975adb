"""CSV files of classes described by their attributes: `name,<attribute>,...`, a row for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from dedn_jax.data.tables import clean, finite_number, first_twice, read_csv
from dedn_jax.errors import InputError
from dedn_jax.files import write_atomically

_NAME = "name"  # of the first column
_HEADS = (_NAME, "class")  # of it, as the tables of own data sets have it
_SPLIT = "split"  # a column of those tables that describes nothing
_SHOWN = 5  # how many attributes a message names


def read_classes(
    path: Path, attributes: Sequence[str]
) -> dict[str, Float32[np.ndarray, " attributes"]]:
    """Reads classes from a CSV file whose header is `name` and the attributes, in any order.

    The `attributes.csv` of a folder of own classes is such a file too.

    Args:
      path: the file.
      attributes: the data set's.

    Returns:
      Attributes in the data set's order, by the names of the classes.

    Raises:
      InputError: names the file, and the line, column, attribute or class that is wrong.
    """
    rows = read_csv(path, f"a header {_NAME},<attribute>,... and a row for each class")
    known = [clean(name) for name in attributes]
    if twice := first_twice(known):
        raise InputError(
            f"{path}: the run's data set has two attributes {twice!r}, which a table cannot tell "
            "apart; give the classes from Python"
        )
    line, header = rows[0]
    if header[0].lower() not in _HEADS:
        hint = "; separate columns by commas" if ";" in header[0] else ""
        raise InputError(
            f"{path}: line {line} begins with {header[0][:64]!r}, expected a header that begins "
            f"with {_NAME!r}{hint}"
        )
    if twice := first_twice(header[1:]):
        raise InputError(f"{path}: the header names {twice!r} twice; keep one of the columns")
    described = [name for name in header[1:] if name != _SPLIT or name in known]
    check_attributes(str(path), described, known)
    column = [header.index(name, 1) for name in known]
    classes: dict[str, np.ndarray] = {}
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line} has {len(row)} cells, expected {len(header)} as the header; "
                "fill in the row, and put names that contain commas in double quotes"
            )
        name = row[0]
        if not name:
            raise InputError(f"{path}: line {line}: the class has no name; put it first")
        if name in classes:
            raise InputError(f"{path}: line {line}: class {name!r} has a row already; keep one")
        values = [finite_number(path, line, header[i], row[i]) for i in column]
        classes[name] = np.asarray(values, np.float32)
    if not classes:
        raise InputError(f"{path}: has a header and no class; add a row for each")
    return classes


def write_classes(
    path: Path,
    names: Sequence[str],
    embeddings: Float32[np.ndarray, "classes attributes"],
    attributes: Sequence[str],
) -> None:
    """Writes a file for `read_classes`, which gives back the same numbers."""
    write_atomically(path, classes_csv(names, embeddings, attributes).encode())


def classes_csv(
    names: Sequence[str],
    embeddings: Float32[np.ndarray, "classes attributes"],
    attributes: Sequence[str],
) -> str:
    """The content of a file for `read_classes`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([_NAME, *attributes])
    for name, row in zip(names, np.asarray(embeddings, np.float32), strict=True):
        table.writerow([name, *(str(value) for value in row)])
    return text.getvalue()


def check_attributes(where: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Checks that a description has every attribute of the data set and no other.

    Raises:
      InputError: names those that are missing or unknown.
    """
    given, expected = set(names), set(known)
    if missing := [name for name in known if name not in given]:
        raise InputError(
            f"{where}: {len(missing)} of {len(known)} attributes are missing: {_some(missing)}; "
            "add a number for each"
        )
    if unknown := [name for name in names if name not in expected]:
        raise InputError(
            f"{where}: unknown attributes: {_some(unknown)}; remove them, or see to their spelling"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name[:64]) for name in names[:_SHOWN]) + more
