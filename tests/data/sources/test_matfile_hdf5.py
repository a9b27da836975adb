"""MATLAB 7.3: the same values as from version 7, and hostile files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.data.sources.xlsa17 import read_xlsa17
from dedn_jax.errors import InputError
from tests.helpers.mat73 import save_mat73
from tests.helpers.xlsa17 import cells, write_tree


def error(path: Path, *names: str) -> str:
    with pytest.raises(InputError) as caught:
        read_mat(path, names or ("x",))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("dtype", ["f8", "f4", "u1", "u2", "i4"])
def test_the_values_of_version_7(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    variables: dict[str, Any] = {
        "matrix": rng.integers(0, 9, (40, 7)).astype(dtype),
        "column": np.arange(5).astype(dtype)[:, None],
        "nothing": np.zeros((0, 1), dtype),
        "word": "a word",
        "names": cells(["ant+eater", "größe", "", "日本"]),
        "grid": np.array([["a", "b"], ["c", "d"]], object),
    }
    scipy.io.savemat(tmp_path / "7.mat", variables)
    expected = read_mat(tmp_path / "7.mat", list(variables))
    found = read_mat(save_mat73(tmp_path / "73.mat", **variables), list(variables))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):
            assert found[name] == value
        else:
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype


@pytest.mark.parametrize("name", ["att_splits.mat", "res101.mat"])
def test_splits_are_read_like_those_of_version_7(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, "CUB")
    folder = tmp_path / "xlsa17" / "data"
    before = read_xlsa17(folder, "CUB")
    path = folder / "CUB" / name
    values = scipy.io.loadmat(path)
    variables = {k: v for k, v in values.items() if not k.startswith("__")}
    for key, value in variables.items():
        if value.dtype == object:  # SciPy makes an array of each cell
            variables[key] = cells([str(cell[0]) for cell in value.reshape(-1)])
    save_mat73(path, **variables)
    after = read_xlsa17(folder, "CUB")
    for field in vars(before):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))


def test_what_is_missing(tmp_path: Path) -> None:
    path = save_mat73(tmp_path / "a.mat", labels=np.eye(2), att=np.eye(2))
    assert "x is missing; the file holds att, labels" in error(path)
    assert read_mat(path, ["att"], ["x"]).keys() == {"att"}


def test_every_truncation_is_one_error(tmp_path: Path) -> None:
    path = save_mat73(tmp_path / "a.mat", x=np.eye(20), names=cells(["a", "b"]))
    data = path.read_bytes()
    for size in range(1, len(data), 97):
        path.write_bytes(data[:size])
        error(path)


def _matlab(file: h5py.File, name: str, kind: str, **arguments: Any) -> h5py.Dataset:
    dataset = file.create_dataset(name, **arguments)
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset


def _struct(file: h5py.File) -> None:
    file.create_group("x").attrs["MATLAB_class"] = np.bytes_("struct")


def _nested(file: h5py.File) -> None:
    inner = _matlab(file, "inner", "cell", data=np.zeros(1), dtype="f8")
    _matlab(file, "x", "cell", data=np.array([inner.ref], h5py.ref_dtype))


def _dangling(file: h5py.File) -> None:
    _matlab(file, "x", "cell", shape=(3,), dtype=h5py.ref_dtype)


def _many_cells(file: h5py.File) -> None:
    _matlab(file, "x", "cell", shape=(2**40,), dtype=h5py.ref_dtype, chunks=(1024,))


def _repeated(file: h5py.File) -> None:
    """One text of 32 MiB, a thousand times."""
    big = _matlab(file, "big", "char", shape=(2**24, 1), dtype="u2", chunks=(1024, 1))
    _matlab(file, "x", "cell", data=np.array([big.ref] * 1000, h5py.ref_dtype))


def _huge(file: h5py.File) -> None:
    _matlab(file, "x", "double", shape=(2**40,), dtype="f8", chunks=(1024,))


def _huge_chunk(file: h5py.File) -> None:
    _matlab(file, "x", "double", shape=(4,), maxshape=(None,), dtype="f8", chunks=(2**28,))


def _huge_empty(file: h5py.File) -> None:
    dataset = _matlab(file, "x", "double", data=np.array([2**62, 2**62], np.uint64))
    dataset.attrs["MATLAB_empty"] = np.uint8(1)


def _external(file: h5py.File) -> None:
    _matlab(file, "x", "double", shape=(2,), dtype="f8", external=[("/etc/passwd", 0, 16)])


def _link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "x")


def _complex(file: h5py.File) -> None:
    _matlab(file, "x", "double", data=np.ones(2, [("real", "f8"), ("imag", "f8")]))


def _no_class(file: h5py.File) -> None:
    file["x"] = np.ones(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_struct, "x is of class struct, expected numbers or strings"),
        (_no_class, "x is of class unknown, expected numbers or strings"),
        (_nested, "x: cell 1 is of class cell, expected a string"),
        (_dangling, "x: cell 1 is of class nothing, expected a string"),
        (_many_cells, "x is no cell array of at most 1048576 cells"),
        (_repeated, "x takes more than 67108864 bytes"),
        (_huge, "x takes more than 67108864 bytes"),
        (_huge_chunk, "x takes more than 67108864 bytes"),
        (_huge_empty, "x is an empty array of shape"),
        (_external, "x keeps its values in another file"),
        (_link, "x is a link"),
        (_complex, "expected real numbers"),
    ],
)
def test_hostile_files(tmp_path: Path, make: Any, message: str) -> None:
    path = save_mat73(tmp_path / "a.mat")
    with h5py.File(path, "r+") as file:
        make(file)
    assert message in error(path)
