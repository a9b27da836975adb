"""Reads word vectors of attributes: NumPy's files, and pickles of them, as they are published."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dedn_jax.buckets.inputs import input_path
from dedn_jax.data.sources.array_pickles import PickledArray, read_array_pickle
from dedn_jax.data.sources.word_files import advice_on_words
from dedn_jax.errors import InputError
from dedn_jax.numpy_files import NPY_MAGIC, read_npy, read_npz

_MAX_BYTES = 2**30
_SHOWN = 5  # names in a message


def read_word_vectors(
    path: str | os.PathLike[str],
    expected_attributes: int | None = None,
    attribute_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Reads one word vector per attribute.

    Args:
      path: told apart by content: a `.npy` file; a `.npz` file with one array; a pickled NumPy
        array (any protocol), such as the published `w2v/CUB_attribute.pkl`, or a dict of such
        vectors by attribute name; each of them as it is or compressed with gzip.
      expected_attributes: how many rows there must be; None: any number.
      attribute_names: in the order of the rows, for a dict of vectors.

    Returns:
      `[attributes, word_dim]` float32, as stored (not normalised).

    Raises:
      InputError: no such file, too large, none of these formats, anything in it but arrays of
        numbers, wrong shape, an attribute without a vector, NaN or infinite values.
    """
    path = input_path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file of word vectors; give one by --word-vectors, or for a training "
            "by --config.data.word_vectors"
        )
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {_MAX_BYTES} of word vectors")
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = _unpacked(data, path)
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{path}: cannot be read: {reason or error}") from error
    return _checked(_array_in(data, path, attribute_names), path, expected_attributes)


def _unpacked(data: bytes, path: Path) -> bytes:
    with gzip.open(io.BytesIO(data)) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path}: over {_MAX_BYTES} bytes unpacked, expected word vectors")
    return content


def _array_in(data: bytes, path: Path, names: Sequence[str] | None) -> np.ndarray:
    if data.startswith(NPY_MAGIC):
        try:
            return read_npy(data)
        except ValueError as error:
            raise InputError(
                f"{path}: not a usable .npy file ({error}); save it as float32 with numpy.save"
            ) from error
    if data.startswith(b"PK\x03\x04"):
        return _only_array(path)
    try:
        found = read_array_pickle(data)
    except ValueError as error:
        raise InputError(
            f"{path}: not a .npy file and not a pickle of a NumPy array of numbers: {error}; "
            f"{advice_on_words(data) or 'save the array with numpy.save'}"
        ) from error
    return _stacked(found, path, names) if isinstance(found, dict) else found


def _only_array(path: Path) -> np.ndarray:
    try:
        arrays = read_npz(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a usable .npz file ({error}); save the array with numpy.save"
        ) from error
    if len(arrays) != 1:
        raise InputError(
            f"{path}: holds {len(arrays)} arrays ({', '.join(sorted(arrays)[:_SHOWN])}), expected "
            "one; save the one of word vectors with numpy.save"
        )
    return next(iter(arrays.values()))


def _stacked(found: dict[str, PickledArray], path: Path, names: Sequence[str] | None) -> np.ndarray:
    """The vectors of a dict in the order of the attributes."""
    if names is None:
        raise InputError(
            f"{path}: vectors by name, and the attributes have no names here; save an array of "
            "[attributes, word_dim] with numpy.save"
        )
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"{path}: no vector of {len(missing)} attributes, such as {missing[0]!r}; it has "
            f"{', '.join(map(repr, list(found)[:_SHOWN]))}; where it is one of words, make the "
            "attributes' vectors with `dedn data wordvectors --glove`"
        )
    try:
        return np.stack([found[name].array().reshape(-1) for name in names])
    except ValueError as error:
        raise InputError(
            f"{path}: its vectors cannot be used ({error}); give each the same number of values"
        ) from error


def _checked(array: np.ndarray, path: Path, expected: int | None) -> np.ndarray:
    rows = "attributes" if expected is None else str(expected)
    if array.ndim != 2 or not array.size or expected not in (None, len(array)):
        turned = array.ndim == 2 and array.shape[1] == expected
        hint = "it looks transposed" if turned else "give one row for each attribute"
        raise InputError(
            f"{path}: word vectors have shape {array.shape}, expected [{rows}, word_dim]; {hint}"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: word vectors have type {array.dtype}, expected numbers; save them as float32"
        )
    with np.errstate(over="ignore"):
        array = np.array(array, np.float32, order="C")  # a copy: not a view of the file
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(
            f"{path}: word vector {row} (0-based) holds NaN or infinite values; make the file again"
        )
    return array
