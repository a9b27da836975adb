"""`.npy` and `.npz` files, as NumPy writes them and hostile."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

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


def says(content: bytes, size: int, checksum: int | None = None) -> bytes:
    """A zip archive of one member, whose headers give another size, and checksum, of it."""
    lying = bytearray(content)
    for begins, at in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        header = lying.rfind(begins)
        struct.pack_into("<I", lying, header + at + 8, size)
        if checksum is not None:
            struct.pack_into("<I", lying, header + at, checksum)
    return bytes(lying)


def test_npz_whose_header_understates_a_member(tmp_path):
    path = tmp_path / "a.npz"
    whole = npy(np.zeros(8 * 2**20, np.uint8))
    np.savez_compressed(path, a=np.zeros(8 * 2**20, np.uint8))
    content = path.read_bytes()
    for size, checksum, message in (
        (200, None, "a: Bad CRC-32"),
        (200, zlib.crc32(whole[:200]), "a: Bad CRC-32"),
        (200, zlib.crc32(whole[:201]), "a: more bytes than the 200 that its header says"),
        (len(whole) + 9, None, f"a: fewer bytes than the {len(whole) + 9} that its header says"),
    ):
        path.write_bytes(says(content, size, checksum))
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read_npz(path, 9 * 2**20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20 or size > 200


def test_npz_of_methods_that_unpack_without_bound(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as out:
            out.writestr("a.npy", npy(np.zeros(3)))
        with pytest.raises(ValueError, match=f"a: compressed by method {method}, expected"):
            read_npz(tmp_path / "a.npz", 8000)
