"""`.npy` and `.npz` files, as NumPy writes them and hostile."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from dedn_jax.numpy_files import read_npy, read_npz


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 4), np.uint8),
        np.float16(3),
    ],
)
def test_same_as_numpy(array):
    result = read_npy(npy(array))
    expected = np.load(io.BytesIO(npy(array)))
    np.testing.assert_array_equal(result, expected)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)


def test_hostile_arrays():
    whole = npy(np.arange(8.0))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }\n"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for data, message in (
        (b"", "magic"),
        (whole[:-1], "63 bytes for an array of shape"),
        (whole + b"x", "65 bytes"),
        (whole.replace(b"(8,)", b"(-8)"), "shape"),
        (huge, "0 bytes for an array of shape"),
        (npy(np.array([{}], object)), "Python objects"),
        (whole.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"), "version"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_npy(data)
        assert "\n" not in str(caught.value)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(3), b=np.zeros(1000))
    arrays = read_npz(path, 10_000)
    np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
    arrays["b"][0] = 1
    with pytest.raises(ValueError, match="8280 bytes unpacked, expected at most 8000"):
        read_npz(path, 8000)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("c.npy", b"no array")
    with pytest.raises(ValueError, match="c: "):
        read_npz(path, 8000)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not a zip file"):
        read_npz(path, 8000)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz", 8000)
