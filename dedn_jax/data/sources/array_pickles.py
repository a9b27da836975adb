"""Pickled NumPy arrays, and dicts of them by name, read without running them.

A pickle is a program, and none of it is run: the few functions and types that a pickled array names
are replaced by stand-ins that record their arguments, every other name is refused, and the array is
assembled from the records.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import reprlib
from typing import Any

import numpy as np

from dedn_jax.errors import one_line
from dedn_jax.numpy_files import assemble
from dedn_jax.pickle_keys import Keys

_MAX_OPCODES = 20_000_000  # an array takes about 60, each of a dict about 25
_NUMBER = re.compile(r"[<>=|]?([fiu][1248])")

# What pickles of an array consist of, protocols 0 to 5, and of dicts of arrays. Left out: lists,
# object creation, persistent ids, extension registry, buffers from outside.
# fmt: off
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "BUILD", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG",
    "LONG1", "BININT", "BININT1", "BININT2", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "PUT", "BINPUT", "LONG_BINPUT",
    "GET", "BINGET", "LONG_BINGET", "MEMOIZE", "EMPTY_DICT", "DICT",
    "SETITEM", "SETITEMS",
))
# fmt: on


class _Note:
    """Stands in for an object: records the arguments of the call and the state set on it."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """Stands in for a function or type of NumPy's; records a call of it as a note."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *arguments: Any) -> _Note:
        return _Note(self.kind, arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function or type")


class PickledArray:
    """An array of a pickled dict, not yet put together."""

    def __init__(self, note: Any) -> None:
        self._note = note

    def array(self) -> np.ndarray:
        """The array.

        Raises:
          ValueError: it is none of numbers.
        """
        try:
            return _from_note(self._note)
        except Exception as error:  # whatever a hostile pickle left
            raise ValueError(one_line(error)) from error


def _encode(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode` as protocols 0 to 2 use it to write bytes; nothing else."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin1")


# NumPy 2 renamed `numpy.core` to `numpy._core`; both are in circulation.
_ADMITTED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _Encode()
        kind = _ADMITTED.get((module, name))
        if kind is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Name(kind)


class _Encode(_Name):
    def __init__(self) -> None:
        super().__init__("encode")

    def __call__(self, *arguments: Any) -> Any:
        return _encode(*arguments)


def read_array_pickle(data: bytes) -> np.ndarray | dict[str, PickledArray]:
    """The array in a pickle, or the arrays by name in that of a dict.

    Raises:
      ValueError: anything else is in it.
    """
    try:
        _check_opcodes(data)
        # latin1: what Python 2 called str comes back byte for byte.
        result = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(result, dict):
            return _from_note(result)
        if not result or not all(isinstance(name, str) for name in result):
            raise pickle.UnpicklingError("it is a dict whose keys are no names")
        return {name: PickledArray(note) for name, note in result.items()}
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise ValueError(one_line(error)) from error


def _check_opcodes(data: bytes) -> None:
    """Refuses opcodes that no array needs, before the unpickler (C code) sees them."""
    keys = Keys()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it contains {opcode.name}")
        # The unpickler sizes its memo by the largest index: one opcode could ask for 64 GB.
        memo = argument if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if (memo or 0) > count or count > _MAX_OPCODES:
            raise pickle.UnpicklingError("its instructions are not those of arrays")
        keys.follow(opcode, argument)


def _from_note(note: Any) -> np.ndarray:
    """The array that the notes describe; raises where they describe anything else."""
    kind = note.kind if isinstance(note, _Note) else type(note).__name__
    if kind == "_reconstruct":  # protocols 0 to 4: an empty array, then its state
        subtype, shape, _ = note.arguments
        if not isinstance(subtype, _Name) or subtype.kind != "ndarray" or shape != (0,):
            raise pickle.UnpicklingError("it is not a plain array")
        _, shape, dtype, fortran, values = note.state
    elif kind == "_frombuffer" and note.state is None:  # protocol 5
        values, dtype, shape, order = note.arguments
        fortran = order == "F"
    else:
        raise pickle.UnpicklingError(f"it is a {kind}")
    if isinstance(values, str):
        values = values.encode("latin1")
    if not isinstance(values, bytes | bytearray):
        raise pickle.UnpicklingError(f"its values are a {type(values).__name__}: Python objects?")
    return assemble(bytes(values), _number_type(dtype), shape, fortran)


def _number_type(note: Any) -> np.dtype:
    if not isinstance(note, _Note) or note.kind != "dtype":
        raise pickle.UnpicklingError("it has no NumPy type")
    code, order = note.arguments[0], "="
    if note.state is not None:
        order = note.state[1]
    match = _NUMBER.fullmatch(code) if isinstance(code, str) else None
    if match is None or order not in ("<", ">", "=", "|"):
        raise pickle.UnpicklingError(
            f"its values are of type {reprlib.repr(code)}, expected numbers"
        )
    return np.dtype(order + match[1])
