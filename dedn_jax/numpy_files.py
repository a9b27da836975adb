"""NumPy's `.npy` and `.npz` formats from untrusted files.

Nothing is unpickled, and, unlike in `numpy.load`, no header decides how much memory is allocated.
"""

from __future__ import annotations

import copy
import io
import math
import reprlib
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import ZIP_METHODS
from dedn_jax.files import open_regular

NPY_MAGIC = b"\x93NUMPY"


def read_npy(data: bytes) -> np.ndarray:
    """The array of a `.npy` file's content; a view of `data`.

    Raises:
      ValueError: not a `.npy` file, damaged, or an array of Python objects.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f".npy version {version}, expected 1.0 or 2.0")
    except Exception as error:  # NumPy parses the header as Python: many kinds of error
        raise ValueError(one_line(error)) from error
    return assemble(data[stream.tell() :], dtype, shape, fortran)


def assemble(
    data: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool = False
) -> np.ndarray:
    """An array of exactly these bytes.

    Raises:
      ValueError: there are more or fewer bytes than such an array has, or it holds Python objects.
    """
    if dtype.hasobject:
        raise ValueError("an array of Python objects, expected numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {reprlib.repr(shape)}")  # short: it can hold anything
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_npz(
    path: Path, limit_bytes: int, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name; checksums are verified.

    Args:
      path: the file.
      limit_bytes: of the file, and of all arrays together, unpacked.
      names: of the arrays that are read; None: all.

    Raises:
      InputError: not a regular file, or a larger one.
      OSError: the file cannot be read.
      ValueError: not a zip archive of `.npy` files, damaged, or over the limit.
    """
    arrays: dict[str, np.ndarray] = {}
    name = ""
    try:
        with open_regular(path, limit_bytes) as file, zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            if names is not None:
                members = {name: m for name, m in members.items() if name in names}
            size = sum(member.file_size for member in members.values())
            if size > limit_bytes:
                raise ValueError(f"{size} bytes unpacked, expected at most {limit_bytes}")
            for name, member in members.items():
                arrays[name] = read_npy(_unpacked(archive, member)).copy()  # writable
    except (InputError, OSError):
        raise
    except Exception as error:  # a damaged archive can make zipfile raise anything
        raise ValueError(f"{name}: {one_line(error)}" if name else one_line(error)) from error
    return arrays


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's content, of which no more is unpacked than its header promises and one byte."""
    if member.compress_type not in ZIP_METHODS:
        raise ValueError(f"compressed by method {member.compress_type}, expected deflate or none")
    # zipfile cuts what is beyond the size in silence; one more lets it be seen.
    longer = copy.copy(member)
    longer.file_size += 1
    with archive.open(longer) as stream:
        data = stream.read(longer.file_size)
    if len(data) != member.file_size:
        relation = "more" if len(data) > member.file_size else "fewer"
        raise ValueError(f"{relation} bytes than the {member.file_size} that its header says")
    return data
