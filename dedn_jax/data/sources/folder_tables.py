"""The tables in a folder of one's own classes: attributes and their groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.tables import finite_number, first_twice, read_csv
from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.norms import MIN_NORM


class Table(NamedTuple):
    """`attributes.csv`.

    Attributes:
      path: where it was read.
      classes: their names, in the order of the rows.
      attributes: their names, in the order of the columns.
      values: `[classes, attributes]` float32.
      splits: `seen`, `unseen` or "" for each class.
    """

    path: Path
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    values: np.ndarray
    splits: tuple[str, ...]

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the attributes that have the same value in all classes."""
        columns = np.flatnonzero((self.values == self.values[0]).all(axis=0))
        return tuple(self.attributes[a] for a in columns.tolist())

    @property
    def alike(self) -> tuple[tuple[str, str], ...]:
        """Classes whose attributes have the proportions of an earlier class's, each with that one:
        class scores are of normalised rows, so that nothing tells the two apart.
        """
        values = self.values.astype(np.float64)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        rows = np.round(values / np.maximum(norms, MIN_NORM), 6) + 0.0  # no negative zeros
        first: dict[bytes, str] = {}
        pairs = [
            (name, first.setdefault(row.tobytes(), name))
            for name, row in zip(self.classes, rows, strict=True)
        ]
        return tuple(pair for pair in pairs if pair[0] != pair[1])


def read_attributes(path: Path) -> Table:
    """Reads `attributes.csv`: a row for each class.

    Raises:
      InputError: names the line, column, class or attribute that is wrong.
    """
    rows = read_csv(path, "a header class,<attribute>,... and a row for each class")
    header = rows[0][1]
    if header[0].lower() != "class":
        hint = "; separate columns by commas" if header[0].lower().startswith("class;") else ""
        raise InputError(
            f"{path}: line {rows[0][0]} begins with {header[0][:64]!r}, expected a header that "
            f"begins with 'class'{hint}"
        )
    columns = [i for i, name in enumerate(header) if i and name.lower() != "split"]
    split_columns = [i for i, name in enumerate(header) if i and name.lower() == "split"]
    if len(split_columns) > 1:
        raise InputError(f"{path}: the header has two columns 'split'; keep one")
    attributes = tuple(header[i] for i in columns)
    if not attributes:
        raise InputError(f"{path}: the header has no attributes; add a column for each")
    for i, name in zip(columns, attributes, strict=True):
        if not name:
            raise InputError(
                f"{path}: column {i + 1} has no name; name the attribute in the header"
            )
    if twice := first_twice(attributes):
        raise InputError(f"{path}: attribute {twice!r} has two columns; keep or rename one")
    classes, values, splits = [], [], []
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line} has {len(row)} cells, the header {len(header)}; fill in the "
                "row, and put names that contain commas in double quotes"
            )
        if not row[0]:
            raise InputError(f"{path}: line {line} has no class name; put it in the first cell")
        classes.append(row[0])
        values.append([finite_number(path, line, header[i], row[i]) for i in columns])
        split = row[split_columns[0]].lower() if split_columns else ""
        if split not in ("seen", "unseen", ""):
            raise InputError(
                f"{path}: line {line}: split of {row[0]!r} is {split[:64]!r}, expected 'seen', "
                "'unseen' or nothing"
            )
        splits.append(split)
    if not classes:
        raise InputError(f"{path}: the header is all there is; add a row for each class")
    if twice := first_twice(classes):
        raise InputError(f"{path}: class {twice!r} has two rows; keep one")
    array = np.asarray(values, np.float32)
    table = Table(path, tuple(classes), attributes, array, tuple(splits))
    if len(classes) > 1 and len(table.constant) == len(attributes):
        raise InputError(
            f"{path}: every attribute has the same value in all classes, so none can be told from "
            "another; give values that differ"
        )
    return table


def read_groups(path: Path, attributes: tuple[str, ...]) -> AttributeGroups | None:
    """Reads `groups.csv`, which puts every attribute into one group; None where there is none.

    Raises:
      InputError: names the line or attribute that is wrong.
    """
    if not os.path.lexists(path):
        return None
    rows = read_csv(path, "a header attribute,group and a row for each attribute")
    if [cell.lower() for cell in rows[0][1]] != ["attribute", "group"]:
        raise InputError(f"{path}: line {rows[0][0]}: expected the header 'attribute,group'")
    number = {name: i for i, name in enumerate(attributes)}
    members: dict[str, list[int]] = {}
    given: set[str] = set()
    for line, row in rows[1:]:
        if len(row) != 2 or not all(row):
            raise InputError(f"{path}: line {line}: expected an attribute and its group")
        name, group = row
        if name not in number:
            raise InputError(
                f"{path}: line {line}: unknown attribute {name!r}; it is not in attributes.csv"
            )
        if name in given:
            raise InputError(f"{path}: line {line}: attribute {name!r} is already in a group")
        given.add(name)
        members.setdefault(group, []).append(number[name])
    if missing := [name for name in attributes if name not in given]:
        raise InputError(f"{path}: attribute {missing[0]!r} has no group; add a row for it")
    return AttributeGroups(tuple(members), tuple(tuple(sorted(m)) for m in members.values()))
