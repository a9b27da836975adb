"""Reads numbers and strings from MATLAB files (v5, v7: the same, compressed, and v7.3).

Files are untrusted, so only what the splits use is parsed: arrays of real numbers, character arrays
and cell arrays of strings. Everything else (objects, function handles, structs, nested cells) is
refused by name.

`scipy.io.loadmat` is not safe here, even behind a size limit: in SciPy 1.17 an element of type 21
makes it read past its table of types, and cells nested 100,000 deep overflow its stack; either
ends the process. It also allocates whatever sizes a nested cell claims.

Layout, from MathWorks, "MAT-File Format" (R2019b), chapter 1: a header of 128 bytes, then elements
of `type, bytes, data`. A variable is a `miMATRIX` element (flags, dimensions, name, values), or a
`miCOMPRESSED` one that inflates to it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dedn_jax.data.sources.matfile_hdf5 import MatValue, read_mat_hdf5
from dedn_jax.errors import InputError
from dedn_jax.file_kinds import what_begins_so
from dedn_jax.files import open_regular
from dedn_jax.paths import local_path

_MAX_VARIABLE_BYTES = 64 * 2**20  # inflated; the largest that splits need is about 7 MB
_MAX_VARIABLES = 1000
_HEADER_BYTES = 128  # of the file
_HEAD_BYTES = 4096  # enough for flags, dimensions and name of any variable
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_TEXT = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _CHAR = 1, 4
_COMPLEX = 0x0800  # among the array flags
# What MATLAB calls the classes, and the type of the numeric ones.
_CLASS_NAMES = {2: "struct", 3: "object", 5: "sparse array", 16: "function handle", 17: "object"}
_CLASS_TYPES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASS_TYPES |= {14: "i8", 15: "u8"}


def read_mat(
    path: str | os.PathLike[str], names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, MatValue]:
    """Reads the variables named; of all others only the header is looked at.

    Args:
      path: a `.mat` file of version 5, 7 or 7.3.
      names: variables that must be there.
      optional: variables that may be.

    Returns:
      By name: a numeric variable as an array of its MATLAB class and shape (a double that MATLAB
      packed as uint16 is float64 again); a cell array of strings, in column order, or a character
      array, one string per row without trailing blanks, as a list. Optional variables that are
      missing are left out.

    Raises:
      InputError: no such file, not a MATLAB file, version 4, truncated or damaged, a variable
        missing, of another kind, or inflating to more than 64 MiB.
    """
    path = local_path(path)
    if not path.is_file():
        kind = "a folder, expected a .mat file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {kind}; see docs/tutorials/cub.md for where the splits belong")
    try:
        with open_regular(path) as file:
            header = file.read(_HEADER_BYTES)
            if header.startswith((b"MATLAB 7.3", b"\x89HDF")):
                found, seen = read_mat_hdf5(path, (*names, *optional))
            else:
                found, seen = _variables(file, _byte_order(header, path), path, names, optional)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for name in names:
        if name not in found:
            there = ", ".join(_printable(n) for n in seen[:12]) or "nothing"
            raise InputError(f"{path}: {name} is missing; the file holds {there}")
    return found


def _variables(
    file: BinaryIO, order: str, path: Path, names: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, MatValue], list[str]]:
    """The values of those variables that are there, and the names of all."""
    found: dict[str, MatValue] = {}
    seen: list[str] = []
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        if len(seen) >= _MAX_VARIABLES:
            raise InputError(f"{path}: more than {_MAX_VARIABLES} variables; is it the right file?")
        variable = _next_variable(file, size, order, path)
        if variable.name in (*names, *optional):
            if variable.name in found:
                raise InputError(f"{path}: {variable.name} occurs twice; save it once")
            found[variable.name] = _value(file, variable, order, path)
        seen.append(variable.name)
        file.seek(variable.end)
    return found, seen


class _Variable(NamedTuple):
    """Where a variable lies in the file."""

    name: str
    matlab_class: int
    compressed: bool
    begin: int  # of the element's data, in bytes
    end: int


class _Damaged(Exception):
    """The bytes are not what the format says; the message says where."""


class _Element(NamedTuple):
    kind: int
    data: memoryview
    next: int  # offset of the element that follows


def _byte_order(header: bytes, path: Path) -> str:
    """`<` or `>`; raises InputError unless the header is that of version 5."""
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None:
        found = what_begins_so(header) or f"it begins with {header[:12]!r}"
        raise InputError(
            f"{path}: not a MATLAB file of version 5, 7 or 7.3: {found}; save it with '-v7'"
        )
    return order


def _next_variable(file: BinaryIO, size: int, order: str, path: Path) -> _Variable:
    begin = file.tell() + 8
    tag = file.read(8)
    where = f"{path}: variable at byte {begin - 8}"
    if len(tag) < 8:
        raise InputError(f"{where} is truncated; download the file again")
    kind, length = struct.unpack(order + "II", tag)
    if kind not in (_MATRIX, _COMPRESSED):
        raise InputError(f"{where} is damaged (element of type {kind}); download the file again")
    head = file.read(min(length, _HEAD_BYTES))
    try:
        if kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(head, _HEAD_BYTES)[8:]  # after miMATRIX's tag
        matlab_class, _, name, _ = _matrix_head(memoryview(head), order)
    except (_Damaged, zlib.error) as error:
        what = "is truncated" if begin + length > size else "is damaged"
        raise InputError(f"{where} {what} ({error}); download the file again") from error
    if begin + length > size:
        raise InputError(
            f"{path}: {_printable(name)} is truncated (ends at byte {begin + length}, the "
            f"file at {size}); download it again"
        )
    return _Variable(name, matlab_class, kind == _COMPRESSED, begin, begin + length)


def _value(file: BinaryIO, variable: _Variable, order: str, path: Path) -> MatValue:
    where = f"{path}: {variable.name}"
    limit = f"{where} takes more than {_MAX_VARIABLE_BYTES} bytes; is it the right file?"
    if variable.end - variable.begin > _MAX_VARIABLE_BYTES:
        raise InputError(limit)
    file.seek(variable.begin)
    data = file.read(variable.end - variable.begin)
    try:
        if variable.compressed:
            inflate = zlib.decompressobj()
            data = inflate.decompress(data, _MAX_VARIABLE_BYTES + 1)
            if len(data) > _MAX_VARIABLE_BYTES:
                raise InputError(limit)
            if not inflate.eof:
                raise _Damaged("compressed data are truncated")
            element = _element(memoryview(data), 0, order)
            if element.kind != _MATRIX:
                raise _Damaged(f"element of type {element.kind}, expected a variable")
            body = element.data
        else:
            body = memoryview(data)
        matlab_class, shape, _, offset = _matrix_head(body, order)
        if matlab_class in _CLASS_TYPES:
            if struct.unpack_from(order + "I", body, 8)[0] & _COMPLEX:
                raise InputError(f"{where} holds complex numbers, expected real ones")
            return _numbers(body, offset, shape, matlab_class, order)
        if matlab_class == _CHAR:
            return _rows(body, offset, shape, order)
        if matlab_class == _CELL:
            return _strings(body, offset, shape, order, where)
    except (_Damaged, zlib.error) as error:
        raise InputError(f"{where} is damaged: {error}; download the file again") from error
    raise InputError(
        f"{where} is of class {_class_name(matlab_class)}, expected numbers or strings"
    )


def _element(data: memoryview, offset: int, order: str) -> _Element:
    """The element at `offset`; its data are within `data`."""
    if offset + 8 > len(data):
        raise _Damaged(f"truncated at byte {len(data)}")
    kind, length = struct.unpack_from(order + "II", data, offset)
    if kind >> 16:  # the small format: both in four bytes, up to four bytes of data behind
        kind, length, begin, following = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
        if length > 4:
            raise _Damaged(f"a small element of {length} bytes")
    else:
        begin = offset + 8
        following = begin + (length + 7) // 8 * 8
    if begin + length > len(data):
        raise _Damaged(f"truncated at byte {len(data)}, expected {begin + length} bytes")
    return _Element(kind, data[begin : begin + length], following)


def _matrix_head(body: memoryview, order: str) -> tuple[int, tuple[int, ...], str, int]:
    """Class, shape, name, and the offset of the values; nothing bounds the shape yet."""
    flags = _element(body, 0, order)
    if flags.kind != 6 or len(flags.data) != 8:
        raise _Damaged("array flags are missing")
    matlab_class = struct.unpack_from(order + "I", flags.data)[0] & 0xFF
    if matlab_class == 17:  # opaque: has no dimensions, and is not read
        name = _element(body, flags.next, order)
        return matlab_class, (), bytes(name.data).decode("latin-1"), name.next
    dimensions = _element(body, flags.next, order)
    whole = len(dimensions.data) // 4 * 4
    shape = np.frombuffer(dimensions.data[:whole], order + "i4")
    if dimensions.kind not in (5, 6) or not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise _Damaged("dimensions are not two or more numbers")
    name = _element(body, dimensions.next, order)
    text = bytes(name.data).decode("latin-1")
    return matlab_class, tuple(int(n) for n in shape), text, name.next


def _numbers(
    body: memoryview, offset: int, shape: tuple[int, ...], matlab_class: int, order: str
) -> np.ndarray:
    packed = _packed(body, offset, order)
    count = _count(shape)
    # Before anything of that size is allocated.
    if count != len(packed) or count * 8 > _MAX_VARIABLE_BYTES:
        raise _Damaged(f"{len(packed)} numbers for an array of shape {shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return packed.astype(_CLASS_TYPES[matlab_class]).reshape(shape, order="F")


def _packed(body: memoryview, offset: int, order: str) -> np.ndarray:
    """The numbers of an element, in the type that they are stored in."""
    element = _element(body, offset, order)
    code = _NUMBERS.get(element.kind)
    if code is None or len(element.data) % int(code[1]):
        raise _Damaged(f"{len(element.data)} bytes of type {element.kind}, expected numbers")
    return np.frombuffer(element.data, order + code)


def _strings(
    body: memoryview, offset: int, shape: tuple[int, ...], order: str, where: str
) -> list[str]:
    """The strings of a cell array; cells that hold anything else are an InputError."""
    count = _count(shape)
    if count * 8 > len(body) - offset:
        raise _Damaged(f"{len(body)} bytes for {count} cells")
    strings = []
    for i in range(count):
        cell = _element(body, offset, order)
        offset = cell.next
        if cell.kind != _MATRIX:
            raise _Damaged(f"cell {i + 1} is an element of type {cell.kind}, expected a variable")
        if not len(cell.data):
            strings.append("")
            continue
        matlab_class, cell_shape, _, values = _matrix_head(cell.data, order)
        rows = _rows(cell.data, values, cell_shape, order) if matlab_class == _CHAR else None
        if rows is None or len(rows) > 1:
            kind = _class_name(matlab_class)
            raise InputError(f"{where}: cell {i + 1} is of class {kind}, expected a string")
        strings.append(rows[0] if rows else "")
    return strings


def _rows(body: memoryview, offset: int, shape: tuple[int, ...], order: str) -> list[str]:
    """The rows of a character array."""
    count = _count(shape)
    if not count:
        return []
    if len(shape) != 2:
        raise _Damaged(f"characters of shape {shape}, expected [rows, columns]")
    element = _element(body, offset, order)
    if element.kind in _TEXT:
        endian = "-le" if order == "<" else "-be"
        encoding = _TEXT[element.kind] + ("" if element.kind == 16 else endian)
        text = bytes(element.data).decode(encoding, "replace")
    else:
        codes = _packed(body, offset, order)
        if codes.dtype.itemsize > 2 or codes.dtype.kind != "u":
            raise _Damaged(f"characters stored as {codes.dtype}")
        text = "".join(map(chr, codes.tolist()))
    if shape[0] == 1:
        # Not compared with the shape: writers differ in what they count (bytes, UTF-16 units).
        return [text.rstrip(" \0")]
    if len(text) != count:
        raise _Damaged(f"{len(text)} characters for an array of shape {shape}")
    return ["".join(text[i :: shape[0]]).rstrip(" \0") for i in range(shape[0])]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _class_name(matlab_class: int) -> str:
    if matlab_class in _CLASS_TYPES:
        return "number"
    named = {_CELL: "cell array", _CHAR: "character array", **_CLASS_NAMES}
    return named.get(matlab_class, f"variable of unknown class {matlab_class}")


def _printable(text: str) -> str:
    """Names go to terminals: no control characters, no page of text."""
    return "".join(c for c in text if c.isprintable())[:64] or "(no name)"
