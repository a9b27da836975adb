"""MATLAB files: the same values as SciPy's reader, and hostile files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.errors import InputError

NAMES = ["ant+eater", "größe", "", "日本"]


def cells(strings: list[str]) -> np.ndarray:
    result = np.empty((len(strings), 1), object)
    result[:, 0] = strings
    return result


def save(tmp_path: Path, *, compress: bool = True, **variables) -> Path:
    path = tmp_path / "file.mat"
    scipy.io.savemat(path, variables, do_compression=compress)
    return path


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(
    matlab_class: int, shape: tuple[int, ...], name: bytes, values: bytes, order: str = "<"
) -> bytes:
    body = element(6, struct.pack(order + "II", matlab_class, 0), order)
    body += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, body + element(1, name, order) + values, order)


def write(tmp_path: Path, *variables: bytes, order: str = "<") -> Path:
    version = struct.pack(order + "H", 0x100) + (b"IM" if order == "<" else b"MI")
    path = tmp_path / "file.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + version + b"".join(variables))
    return path


def error(path: Path, *names: str) -> str:
    with pytest.raises(InputError) as caught:
        read_mat(path, names or ("x",))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message[len(str(path)) :]


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_numbers(tmp_path, dtype, compress):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = save(tmp_path, compress=compress, other=np.ones(5), x=array, s=array[0, 0, 1])
    result = read_mat(path, ["x", "s"])
    np.testing.assert_array_equal(result["x"], array)
    assert result["x"].dtype == array.dtype
    np.testing.assert_array_equal(result["s"], [[1]])
    assert list(result) == ["x", "s"]


@pytest.mark.parametrize("compress", [True, False])
def test_strings(tmp_path, compress):
    rows = np.array(["ab ", "cde"])
    path = save(tmp_path, compress=compress, x=cells(NAMES), word="a word", rows=rows)
    result = read_mat(path, ["x", "word", "rows"])
    assert result == {"x": NAMES, "word": ["a word"], "rows": ["ab", "cde"]}


def test_optional(tmp_path):
    path = save(tmp_path, x=np.eye(2), y=np.eye(3))
    assert list(read_mat(path, ["x"], ["z"])) == ["x"]
    assert sorted(read_mat(path, ["x"], ["z", "y"])) == ["x", "y"]


def test_real_files_match_scipy(shared_data):
    files = sorted((shared_data / "xlsa17").rglob("*.mat"))
    files += sorted((shared_data / "cub40" / "xlsa17").rglob("*.mat"))
    assert len(files) == 5
    for path in files:
        names = [name for name, _, _ in scipy.io.whosmat(path)]
        expected = scipy.io.loadmat(path, mat_dtype=True)
        for name, value in read_mat(path, names).items():
            if isinstance(value, list):
                assert value == [str(cell[0]) for cell in expected[name].ravel()]
            else:
                assert value.dtype == expected[name].dtype
                np.testing.assert_array_equal(value, expected[name])


def test_big_endian_and_packed_doubles(tmp_path):
    values = element(4, struct.pack(">6H", 1, 2, 3, 4, 5, 65535), ">")  # class double, as uint16
    path = write(tmp_path, matrix(6, (2, 3), b"x", values, ">"), order=">")
    result = read_mat(path, ["x"])["x"]
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, [[1, 3, 5], [2, 4, 65535]])


def test_missing_file_and_variable(tmp_path):
    assert "no such file" in error(tmp_path / "none.mat")
    assert "a folder" in error(tmp_path)
    path = save(tmp_path, labels=np.eye(2), att=np.eye(2))
    assert "x is missing; the file holds labels, att" in error(path)


def test_not_a_mat_file(tmp_path):
    path = tmp_path / "file.mat"
    for data in (b"", b"<html>not found</html>" * 20):
        path.write_bytes(data)
        assert "not a MATLAB file of version 5, 7 or 7.3: it is " in error(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(1000))
    assert "cannot be read" in error(path)  # a header, and no HDF5 behind it


@pytest.mark.parametrize("compress", [True, False])
def test_every_truncation_is_one_error(tmp_path, compress):
    path = save(tmp_path, compress=compress, x=cells(NAMES), y=np.arange(50.0))
    data = path.read_bytes()
    for size in range(1, len(data), 3):
        path.write_bytes(data[:size])
        # Cut exactly between the two variables, the second is not there at all.
        message = error(path, "x", "y")
        assert any(w in message for w in ("truncated", "is missing", "not a MATLAB", "damaged"))


@pytest.mark.parametrize("compress", [True, False])
def test_random_damage_never_ends_in_another_exception(tmp_path, compress):
    path = save(tmp_path, compress=compress, x=cells(NAMES), y=np.arange(50.0), z="text")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(128, len(data), 3):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_mat(path, ["x", "y", "z"])
        except InputError:
            refused += 1
    assert refused > (290 if compress else 75)  # zlib's checksum sees every change


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"field": 1}, "struct"),
        (None, "function handle"),  # made by hand: SciPy cannot write one
        (1j * np.ones(3), "complex"),
    ],
)
def test_other_kinds_are_refused(tmp_path, value, kind):
    if kind == "function handle":
        path = write(tmp_path, matrix(16, (1, 1), b"x", element(14, b"")))
    else:
        path = save(tmp_path, x=value)
    message = error(path)
    assert message.startswith(": x ")
    assert kind in message


def test_opaque_object_is_refused(tmp_path):
    body = element(6, struct.pack("<II", 17, 0)) + element(1, b"x") + element(1, b"MCOS")
    assert ": x is of class object" in error(write(tmp_path, element(14, body)))


def test_cells_of_other_things_are_refused(tmp_path):
    inner = np.empty((2, 1), object)
    inner[:, 0] = ["a", np.eye(2)]
    assert "cell 2 is of class number, expected a string" in error(save(tmp_path, x=inner))


@pytest.mark.parametrize("depth", [1, 3000, 200_000])
def test_nested_cells_do_not_overflow_the_stack(tmp_path, depth):
    head = matrix(1, (1, 1), b"x", b"")[8:]
    lengths = [len(head) + i * (8 + len(head)) for i in range(depth, -1, -1)]
    nested = b"".join(struct.pack("<II", 14, n) + head for n in lengths)
    assert "cell 1 is of class cell array" in error(write(tmp_path, nested))


@pytest.mark.parametrize("kind", [0, 8, 10, 11, 20, 21, 1000, 100_000])
def test_unknown_element_types(tmp_path, kind):
    """SciPy's reader looks them up outside of its table."""
    assert "x is damaged" in error(
        write(tmp_path, matrix(6, (1, 1), b"x", element(kind, bytes(8))))
    )


@pytest.mark.parametrize("matlab_class", [1, 4, 6])
def test_claimed_shapes_allocate_nothing(tmp_path, matlab_class):
    shape = (2**31 - 1, 2**31 - 1)
    path = write(tmp_path, matrix(matlab_class, shape, b"x", element(2, b"abcd")))
    assert "x is damaged" in error(path)


def test_decompression_bomb(tmp_path):
    pack = zlib.compressobj(9)
    stream = io.BytesIO()
    size = 2**27
    head = matrix(9, (size, 1), b"x", b"")
    stream.write(pack.compress(struct.pack("<II", 14, len(head) + size) + head[8:]))
    stream.write(pack.compress(struct.pack("<II", 2, size)))
    for _ in range(size // 2**22):
        stream.write(pack.compress(bytes(2**22)))
    stream.write(pack.flush())
    bomb = stream.getvalue()
    assert len(bomb) < 2**19
    path = write(tmp_path, struct.pack("<II", 15, len(bomb)) + bomb)
    assert "x takes more than 67108864 bytes" in error(path)
    # Harmless where nobody asks for it.
    assert read_mat(path, [], ["y"]) == {}


def test_a_variable_twice(tmp_path):
    x = matrix(6, (1, 1), b"x", element(9, struct.pack("<d", 1)))
    assert "x occurs twice" in error(write(tmp_path, x, x))


def test_many_variables(tmp_path):
    x = matrix(6, (1, 1), b"y", element(9, struct.pack("<d", 1)))
    assert "more than 1000 variables" in error(write(tmp_path, *[x] * 1001))
