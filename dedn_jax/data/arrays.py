"""Checks of arrays that come from files or from the user."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from dedn_jax.errors import InputError, one_line


def as_array(value: object, where: str) -> np.ndarray:
    """What NumPy makes of an argument.

    Args:
      value: an array of any library, or nested lists.
      where: what an error message begins with: what the argument is of, and its name.

    Raises:
      InputError: NumPy makes no array of it, as of rows of different lengths.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{where}: no array can be made of it ({one_line(error)}); give a NumPy array"
        ) from error


def finite_matrix(
    array: np.ndarray, where: str, name: str, expected: str
) -> Float32[np.ndarray, "rows columns"]:
    """A matrix of finite numbers as float32.

    Args:
      array: of any numeric type.
      where: what an error message begins with.
      name: of the field.
      expected: its axes, such as "[classes, attributes]".

    Raises:
      InputError: it is no such matrix.
    """
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise InputError(
            f"{where}: {name} has shape {array.shape} and type {array.dtype}, expected numbers "
            f"{expected}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(
            f"{where}: {name} holds NaN or infinite values (first in row {row}); build it again"
        )
    return array


def whole_numbers(array: np.ndarray, where: str, name: str) -> Int64[np.ndarray, " n"]:
    """A vector of whole numbers as int64; `[n, 1]` and `[1, n]`, as MATLAB writes, too.

    Args:
      array: of any numeric type.
      where: what an error message begins with.
      name: of the field.

    Raises:
      InputError: it is no such vector.
    """
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: {name} has shape {array.shape} and type {array.dtype}, expected whole "
            "numbers [n]"
        )
    # A uint16 that went below zero comes back as 65535: the range checks catch it.
    whole = array.astype(np.int64) if np.isfinite(array).all() else None
    if whole is None or not np.array_equal(whole, array):
        raise InputError(f"{where}: {name} holds values that are not whole numbers; build it again")
    return whole
