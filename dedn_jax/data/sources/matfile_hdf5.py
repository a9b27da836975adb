"""Reads numbers and strings from MATLAB files of version 7.3, which are HDF5.

MATLAB names the class of a variable in the attribute `MATLAB_class`, keeps axes in reverse order,
characters as UTF-16 units, and the cells of a cell array as references to arrays below `#refs#`.
An empty array (`MATLAB_empty`) holds its own shape.

Files are untrusted: as in `matfile`, only what the splits use is read, and sizes are known before
anything is read. Values kept in other files are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from dedn_jax.data.hdf5_chunks import check_chunks
from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import hdf5_advice

MatValue = np.ndarray | list[str]

_MAX_VARIABLE_BYTES = 64 * 2**20
_MAX_CELLS = 2**20
_NUMBERS = {"double": "f8", "single": "f4", "logical": "u1"}
_NUMBERS |= {f"{sign}int{8 * n}": f"{sign or 'i'}{n}" for sign in ("", "u") for n in (1, 2, 4, 8)}
_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what h5py may raise


def read_mat_hdf5(path: Path, names: Sequence[str]) -> tuple[dict[str, MatValue], list[str]]:
    """Reads the variables named, those that are there.

    Args:
      path: the file.
      names: of variables.

    Returns:
      Values by name, as `read_mat`, and the names of all variables.

    Raises:
      InputError: damaged, or a variable of another kind, or larger than 64 MiB.
    """
    where = str(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            there = [name for name in file if not name.startswith("#")]
            return {n: _value(file, n, f"{path}: {n}") for n in names if n in there}, there
    except _ERRORS as error:
        raise InputError(
            f"{where}: cannot be read: {one_line(error)}; {hdf5_advice(error)}"
        ) from error


def _value(file: h5py.File, name: str, where: str) -> MatValue:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{where} is a link; only variables stored in the file itself are read")
    variable = file[name]
    kind = _matlab_class(variable)
    if not isinstance(variable, h5py.Dataset) or kind not in (*_NUMBERS, "char", "cell"):
        raise InputError(f"{where} is of class {kind or 'unknown'}, expected numbers or strings")
    if kind == "char":
        return _rows(_array(variable, where))
    if kind == "cell":
        return _strings(file, variable, where)
    return _array(variable, where).astype(_NUMBERS[kind])


def _matlab_class(variable: h5py.HLObject) -> str:
    found = variable.attrs.get("MATLAB_class", b"")
    return found.decode("ascii", "replace")[:64] if isinstance(found, bytes) else ""


def _array(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """The values of a data set with the axes as in MATLAB.

    Characters that are empty or of another type come as what they are; `_rows` sees to them.
    """
    stored = (dataset.size or 0) * dataset.dtype.itemsize
    chunk = int(np.prod(dataset.chunks or (0,), dtype=np.int64)) * dataset.dtype.itemsize
    if max(stored, chunk) > _MAX_VARIABLE_BYTES:
        raise InputError(f"{where} takes more than {_MAX_VARIABLE_BYTES} bytes")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{where} keeps its values in another file; save it again")
    if dataset.dtype.kind not in "iuf" or dataset.shape is None:
        raise InputError(f"{where} holds values of type {dataset.dtype}, expected real numbers")
    check_chunks(dataset, where)
    values = np.asarray(dataset[()])
    if not dataset.attrs.get("MATLAB_empty", 0):
        return values.T
    shape = tuple(int(n) for n in values.reshape(-1))
    if 0 not in shape or min(shape) < 0 or len(shape) > 32:
        raise InputError(f"{where} is an empty array of shape {shape}")
    return np.zeros(shape, values.dtype)


def _rows(codes: np.ndarray) -> list[str]:
    """The rows of a character array without trailing blanks."""
    units = np.atleast_2d(codes).astype("<u2")
    return [row.tobytes().decode("utf-16-le", "replace").rstrip(" \0") for row in units]


def _strings(file: h5py.File, cells: h5py.Dataset, where: str) -> list[str]:
    """The strings of a cell array, in column order."""
    if cells.attrs.get("MATLAB_empty", 0):
        return []
    if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference or cells.size > _MAX_CELLS:
        raise InputError(f"{where} is no cell array of at most {_MAX_CELLS} cells")
    if cells.external or cells.is_virtual:
        raise InputError(f"{where} keeps its values in another file; save it again")
    check_chunks(cells, where)
    strings: list[str] = []
    left = _MAX_VARIABLE_BYTES
    # Axes are reversed, so this order is MATLAB's, column after column.
    for i, reference in enumerate(np.asarray(cells[()]).reshape(-1), 1):
        cell = file[reference] if reference else None
        if not isinstance(cell, h5py.Dataset) or _matlab_class(cell) != "char":
            kind = "nothing" if cell is None else _matlab_class(cell) or "unknown"
            raise InputError(f"{where}: cell {i} is of class {kind}, expected a string")
        left -= cell.size * cell.dtype.itemsize
        if left < 0:
            raise InputError(f"{where} takes more than {_MAX_VARIABLE_BYTES} bytes")
        rows = _rows(_array(cell, f"{where}: cell {i}"))
        if len(rows) > 1:
            raise InputError(f"{where}: cell {i} has {len(rows)} rows, expected a string")
        strings.append(rows[0] if rows else "")
    return strings
