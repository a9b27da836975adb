"""The content of `torch.save` files, read without PyTorch and without running their pickles.

A pickle is a program. Before it is unpickled its instructions are looked through: those that build
dicts, lists, tuples, numbers, text and objects may be there. What functions and classes it names is
never looked up: stand-ins take their place, for the few that a tensor consists of those that record
it, for all others (the arguments of a training, a NumPy scalar) one that forgets what it is given.
The values of tensors are read afterwards, from the parts of the file that the records point to.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from dedn_jax.pickle_keys import Keys

_MAX_PICKLE_BYTES = 64 * 2**20  # one of a thousand tensors takes 0.1 MiB
# fmt: off
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "EMPTY_LIST",
    "SETITEM", "SETITEMS", "APPEND", "APPENDS", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE", "BINPERSID",
    "NEWOBJ", "EMPTY_SET", "ADDITEMS", "BINBYTES", "SHORT_BINBYTES", "LONG4",
))
# fmt: on
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MOST_VALUES = 2**48  # of a tensor, and so of its sizes and strides
_MOST_SIZES = 64  # of an array of NumPy
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage(NamedTuple):
    """Values of one type, one after the other."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """What a pickle says of a tensor.

    Attributes:
      storage: where its values are.
      offset: of the first one.
      shape, strides: in values.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def array(self, values: np.ndarray) -> np.ndarray:
        """A copy of the values that it stands for.

        Raises:
          ValueError: it reaches beyond its storage.
        """
        steps = [(n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)]
        last = self.offset + sum(steps)
        if math.prod(self.shape) and last >= len(values):
            raise ValueError("a tensor reaches beyond its storage")
        strides = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


class Saved(NamedTuple):
    """The content of a file.

    Attributes:
      value: dicts, lists, tuples, numbers and text, with `Tensor` for tensors.
      values_of: the values of a storage.
    """

    value: Any
    values_of: Callable[[Storage], np.ndarray]


def read_saved(path: Path) -> Saved:
    """The content of a file that `torch.save` wrote, in today's format or that before 1.6.

    Raises:
      OSError: the file cannot be read.
      ValueError: another format, a damaged file, or anything but plain tensors in it; of the result
        as well, when values are asked for.
    """
    with _reading():
        saved = _from_archive(path) if zipfile.is_zipfile(path) else _from_legacy(path)

    def values_of(storage: Storage) -> np.ndarray:
        with _reading():
            return saved.values_of(storage)

    return Saved(saved.value, values_of)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # a damaged pickle or archive can raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _from_archive(path: Path) -> Saved:
    # Open for as long as values may be asked for: to list its members for each takes for ever.
    archive = zipfile.ZipFile(path)
    members = {member.filename: member for member in archive.infolist()}
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise ValueError("a compressed archive, expected one stored as torch.save does")
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise ValueError("an archive without data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{root}byteorder")
    if order and archive.read(order) != b"little":
        raise ValueError("not in little-endian byte order")
    if members[pickles[0]].file_size > _MAX_PICKLE_BYTES:
        raise ValueError(f"a pickle of {members[pickles[0]].file_size} bytes")
    value = _unpickled(io.BytesIO(archive.read(pickles[0])))

    def values_of(storage: Storage) -> np.ndarray:
        member = archive.getinfo(f"{root}data/{storage.key}")
        if member.file_size != storage.length * storage.dtype.itemsize:
            raise ValueError(
                f"a storage of {member.file_size} bytes that says it has {storage.length} "
                f"values of {storage.dtype}"
            )
        return np.frombuffer(archive.read(member), storage.dtype)

    return Saved(value, values_of)


def _from_legacy(path: Path) -> Saved:
    """Pickles one after the other: three of a header, the value, the storages' keys; then these."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if _unpickled(file) != _LEGACY_MAGIC or _unpickled(file) != _LEGACY_PROTOCOL:
            raise ValueError("not a file of torch.save")
        system = _unpickled(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("not in little-endian byte order")
        storages: dict[str, Storage] = {}
        value, keys = _unpickled(file, storages), _unpickled(file)
        starts: dict[str, int] = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            if not isinstance(key, str) or key not in storages or count != storages[key].length:
                raise ValueError("storages that are not those of its tensors")
            starts[key] = file.tell()
            file.seek(count * storages[key].dtype.itemsize, io.SEEK_CUR)
            if file.tell() > size:  # reading would allocate as much as it says
                raise ValueError("storages that go beyond the end of the file")
        if set(starts) != set(storages):
            raise ValueError("storages that are not those of its tensors")

    def values_of(storage: Storage) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(starts[storage.key])
            data = file.read(storage.length * storage.dtype.itemsize)
        return np.frombuffer(data, storage.dtype)

    return Saved(value, values_of)


def _unpickled(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle of a file, which stands behind it afterwards."""
    start, keys = file.tell(), Keys()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in _OPCODES:
            raise ValueError(f"{opcode.name} in a pickle, which plain tensors do not need")
        # The memo is an array: a large index alone would allocate it.
        if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > step:
            raise ValueError("a damaged pickle")
        keys.follow(opcode, argument)
        if file.tell() - start > _MAX_PICKLE_BYTES:
            raise ValueError(f"a pickle of more than {_MAX_PICKLE_BYTES} bytes")
    end = file.tell()
    file.seek(start)
    value = _Unpickler(io.BytesIO(file.read(end - start)), {} if storages is None else storages)
    return value.load()


class Unread:
    """In place of an object of any other class, or of what a function would give; holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class _Names(dict):
    """In place of OrderedDict; a pickle sets attributes of it, which dict has none of."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for name, value in pairs:  # as Python 2 pickled it: no instruction tells of these keys
            if not isinstance(name, str | int):
                raise ValueError(f"a dict with a {type(name).__name__} as a key")
            self[name] = value


class _Function:
    """Stands for a function or a class that a pickle may call, and cannot change for others."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise ValueError("it changes a function")


class _Unpickler(pickle.Unpickler):
    """Names no function but those below."""

    def __init__(self, file: BinaryIO, storages: dict[str, Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        found = _FUNCTIONS.get((module, name))
        return found or type(f"{module[:40]}.{name[:40]}", (Unread,), {})

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or view not in ([], [None]) or not isinstance(dtype, np.dtype):
            raise ValueError("a storage that is not plain")
        if not isinstance(key, str) or type(length) is not int or length < 0:
            raise ValueError("a storage without a size")
        storage = Storage(key, dtype, length)
        if self._storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one name")
        return storage


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if len(shape) > _MOST_SIZES:  # a product of many takes for ever
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < _MOST_VALUES for n in numbers):
        raise ValueError("a tensor of a negative size or an impossible one")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _with_attributes(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    # A list may hold more by now than when the instructions were followed.
    if function not in (_TENSOR, _PARAMETER) or not isinstance(arguments, tuple):
        raise ValueError("a tensor of a kind of its own")
    return function(*arguments)


_TENSOR, _PARAMETER = _Function(_tensor), _Function(_parameter)
_FUNCTIONS: Mapping[tuple[str, str], _Function] = {
    ("collections", "OrderedDict"): _Function(_Names),
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): _Function(_with_attributes),
}
