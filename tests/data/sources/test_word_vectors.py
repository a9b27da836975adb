"""Word vectors: the formats in circulation, and pickles that would rather do something else."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.errors import InputError

VECTORS = np.random.default_rng(0).normal(size=(7, 4))


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "vectors.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
@pytest.mark.parametrize(
    "array",
    [
        VECTORS,
        VECTORS.astype(np.float32),
        VECTORS.astype(np.float16),
        VECTORS.astype(">f8"),
        np.asfortranarray(VECTORS),
        VECTORS[::2, ::-1],
        np.arange(28, dtype=np.int32).reshape(7, 4),
    ],
    ids=["f8", "f4", "f2", "big-endian", "fortran", "strided", "int"],
)
def test_pickled_array(tmp_path, array, core, protocol):
    data = pickle.dumps(array, protocol)
    if core == b"numpy.core" and protocol < 4:
        data = data.replace(b"numpy._core", core)
    elif core == b"numpy.core":
        # Protocol 4 on: the names and the frame carry their lengths.
        data = data.replace(b"numpy._core", core)
        data = data.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        data = data.replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core")
        length = struct.unpack("<Q", data[3:11])[0]
        data = data[:3] + struct.pack("<Q", length - 1) + data[11:]
    result = read_word_vectors(write(tmp_path, data))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.flags.writeable
    np.testing.assert_array_equal(result, array.astype(np.float32))


def test_pickle_of_python_2(tmp_path):
    # cPickle.dumps(numpy.array([[1.0, -2.0]]), 2) of Python 2: byte strings are `str`.
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b"
        b"\x87Rq\x03(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + np.array([1.0, -2.0]).tobytes()
        + b"tb."
    )
    assert pickle.loads(data, encoding="latin1").tolist() == [[1.0, -2.0]]
    np.testing.assert_array_equal(read_word_vectors(write(tmp_path, data)), [[1, -2]])


@pytest.mark.parametrize("array", [VECTORS, np.asfortranarray(VECTORS), VECTORS.astype(">f4")])
def test_npy(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    np.testing.assert_array_equal(
        read_word_vectors(tmp_path / "v.npy", 7), array.astype(np.float32)
    )


@pytest.mark.parametrize(("name", "rows"), [("CUB", 312), ("SUN", 102), ("AWA2", 85)])
def test_real_files(shared_data, name, rows):
    path = shared_data / "w2v" / f"{name}_attribute.pkl"
    result = read_word_vectors(path, rows)
    assert result.shape == (rows, 300)
    with path.open("rb") as file:
        np.testing.assert_array_equal(result, pickle.load(file).astype(np.float32))


# --- refusals ------------------------------------------------------------------------------------


class Calls:
    """Pickles into a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def raw_call(module: str, name: str, argument: bytes) -> bytes:
    return f"\x80\x02c{module}\n{name}\n".encode() + argument + b"\x85R."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def object_array_by_state() -> bytes:
    """A plain array's pickle whose type and values are replaced by Python objects."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01K\x01\x86cnumpy\ndtype\n"
        + text("O8")
        + b"K\x00K\x01\x87R(K\x03"
        # Claims objects, gives addresses.
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89C\x08AAAAAAAAtb."
    )


def hostile(marker: Path) -> dict[str, bytes]:
    touch = f"open({str(marker)!r}, 'w').close()"
    big = pickle.dumps(VECTORS, 3)
    return {
        "os.system": pickle.dumps(Calls(os.system, f"touch {marker}")),
        "eval": pickle.dumps(Calls(eval, touch)),
        "exec": pickle.dumps(Calls(exec, touch)),
        "open": pickle.dumps(Calls(open, str(marker), "w")),
        "getattr": pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system")),
        "import, protocol 0": f"c__builtin__\neval\n(S{touch!r}\ntR.".encode(),
        "INST": f"(S'touch {marker}'\nios\nsystem\n.".encode(),
        "OBJ": b"(cos\nsystem\n" + text(f"touch {marker}") + b"o.",
        "os.system inside an array": pickle.dumps(
            np.array([[Calls(os.system, f"touch {marker}")]], dtype=object)
        ),
        "numpy.load": raw_call("numpy", "load", text(str(marker))),
        "runstring": raw_call("numpy.testing._private.utils", "runstring", text(touch)),
        "nested attribute": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
        "codecs gadget": raw_call("_codecs", "lookup", text("latin1")),
        "encode to something else": b"\x80\x02c_codecs\nencode\n"
        + text("x")
        + text("zlib")
        + b"\x86R.",
        "object array": pickle.dumps(np.array([["a", 1]], dtype=object)),
        "object array by state": object_array_by_state(),
        "text array": pickle.dumps(np.array([["a", "b"]])),
        "structured array": pickle.dumps(np.zeros((2, 2), [("a", "f4"), ("b", "f4")])),
        "dates": pickle.dumps(np.zeros((2, 2), "datetime64[s]")),
        "complex": pickle.dumps(np.zeros((2, 2), complex)),
        "masked array": pickle.dumps(np.ma.masked_array(VECTORS)),
        "list": pickle.dumps(VECTORS.tolist()),
        "dict": pickle.dumps({"w2v": VECTORS}),
        "tuple of arrays": pickle.dumps((VECTORS, VECTORS)),
        "number": pickle.dumps(3),
        "a type": b"\x80\x02cnumpy\nndarray\n.",
        "a dtype": pickle.dumps(np.dtype("f8")),
        "state on a type": b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
        "state on a type, no dict": b"\x80\x02cnumpy\nndarray\nK\x01b.",
        "shape too large": big.replace(b"K\x07K\x04\x86", b"K\x08K\x04\x86"),
        "negative shape": big.replace(b"K\x07K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86"),
        "huge memo": b"\x80\x03Nr\xff\xff\xff\xff.",
        "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "laughs": b"\x80\x02]" + b"q\x00" + b"(" + b"h\x00" * 10 + b"l" * 9 + b".",
        "deep": b"\x80\x02" + b"N" + b"\x85" * 10**6 + b".",
        "deep key": b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.",
        "a tuple twice": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00Ns.",
        "a tuple twice, DICT": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"(h\x00Nd.",
        "many marks": b"(" * 10**6 + b".",
        "persistent id": b"\x80\x02Pabc\n.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "truncated": big[:-20],
        "empty": b"",
        "zip": b"PK\x03\x04" + bytes(30),
        "random": np.random.default_rng(3).bytes(500),
    }


@pytest.mark.parametrize("place", ["type", "shape"])
def test_what_is_shared_is_not_spelled_out(tmp_path, place):
    """Sixty dicts, each twice in the next: written out they take for ever."""
    start = b"\x80\x02}q\x01"
    for i in range(2, 62):
        start += b"}q%c" % i + text("a") + b"h%cs" % (i - 1) + text("b") + b"h%cs" % (i - 1)
    code, shape = (b"h\x3d", b"K\x00\x85") if place == "type" else (text("f4"), b"h\x3d")
    call = b"cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n(" + code + b"tR" + shape
    with pytest.raises(InputError, match=place):
        read_word_vectors(write(tmp_path, start + call + text("C") + b"tR."))


@pytest.mark.parametrize("case", hostile(Path("x")))
def test_hostile_pickles(tmp_path, case):
    marker = tmp_path / "executed"
    path = write(tmp_path, hostile(marker)[case])
    with pytest.raises(InputError) as caught:
        read_word_vectors(path)
    assert not marker.exists()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_the_hostile_cases_are_hostile(tmp_path):
    """What ordinary unpickling would have done; else the tests above prove nothing."""
    marker = tmp_path / "executed"
    cases = hostile(marker)
    names = "os.system", "eval", "exec", "open", "import, protocol 0", "INST", "OBJ"
    for case in (*names, "os.system inside an array"):
        assert not marker.exists()
        pickle.loads(cases[case])
        assert marker.exists(), case
        marker.unlink()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (VECTORS[0], r"word vectors have shape \(4,\), expected \[7, word_dim\]"),
        (
            VECTORS[:3],
            r"word vectors have shape \(3, 4\), expected \[7, word_dim\]; give one row for each",
        ),
        (VECTORS.T, r"shape \(4, 7\), expected \[7, word_dim\]; it looks transposed"),
        (np.zeros((7, 0)), r"shape \(7, 0\)"),
        (
            np.where(np.arange(7)[:, None] == 3, np.nan, VECTORS),
            r"word vector 3 \(0-based\) holds NaN",
        ),
        (VECTORS * 1e300, r"word vector 0 \(0-based\) holds NaN or infinite"),
        (VECTORS.astype(bool), "expected numbers"),
        (VECTORS.astype(complex), "expected numbers"),
        (VECTORS.astype("S3"), "expected numbers"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "pickle"])
def test_unusable_arrays(tmp_path, array, message, kind):
    path = tmp_path / "vectors"
    with path.open("wb") as file:
        (np.save if kind == "npy" else lambda f, a: pickle.dump(a, f))(file, array)
    with pytest.raises(InputError, match=message) as caught:
        read_word_vectors(path, 7)
    assert str(caught.value).startswith(f"{path}: ")


def test_bad_npy(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="an array of Python objects"):
        read_word_vectors(path)
    np.save(path, VECTORS)
    whole = path.read_bytes()
    for data in (
        whole[:-1],
        whole[:60],
        whole[:7],
        whole + b"x",
        whole.replace(b"(7, 4)", b"(9**9,)"[:6]),
        whole.replace(b"'shape'", b"'sh\xffpe'"),
        whole.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"),
        whole.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        whole.replace(b"{'descr'", b"(((((((("),
    ):
        assert data != whole
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"v\.npy: "):
            read_word_vectors(path)


def test_no_such_file_and_too_large(tmp_path):
    with pytest.raises(InputError, match="no such file of word vectors"):
        read_word_vectors(tmp_path / "none.npy")
    with pytest.raises(InputError, match="no such file of word vectors"):
        read_word_vectors(tmp_path)
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # sparse
    with pytest.raises(InputError, match="1073741825 bytes, expected at most 1073741824"):
        read_word_vectors(path)


NAMES = [f"attribute {i}" for i in range(7)]


def test_npz_with_one_array(tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez_compressed(path, w2v=VECTORS)
    np.testing.assert_array_equal(read_word_vectors(path, 7), VECTORS.astype(np.float32))
    np.savez(path, a=VECTORS, b=VECTORS)
    with pytest.raises(InputError, match=r"holds 2 arrays \(a, b\), expected one"):
        read_word_vectors(path)


@pytest.mark.parametrize("kind", ["npy", "pickle"])
def test_compressed_with_gzip(tmp_path, kind):
    plain = tmp_path / "plain"
    with plain.open("wb") as file:
        np.save(file, VECTORS) if kind == "npy" else pickle.dump(VECTORS, file)
    path = write(tmp_path, gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_word_vectors(path), VECTORS.astype(np.float32))
    path.write_bytes(gzip.compress(plain.read_bytes())[:-20])
    with pytest.raises(InputError, match="cannot be read: Compressed file ended"):
        read_word_vectors(path)


@pytest.mark.parametrize("protocol", range(6))
def test_dict_by_attribute(tmp_path, protocol):
    found = dict(zip(NAMES[::-1], VECTORS[::-1], strict=True))
    path = write(tmp_path, pickle.dumps(found, protocol))
    result = read_word_vectors(path, 7, NAMES)
    np.testing.assert_array_equal(result, VECTORS.astype(np.float32))
    with pytest.raises(InputError, match="the attributes have no names here"):
        read_word_vectors(path, 7)
    with pytest.raises(InputError, match=r"no vector of 1 attributes, such as 'red'; it has"):
        read_word_vectors(path, 8, [*NAMES, "red"])
    found["attribute 3"] = VECTORS[3, :2]
    path.write_bytes(pickle.dumps(found, protocol))
    with pytest.raises(InputError, match="give each the same number of values"):
        read_word_vectors(path, 7, NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors\n.", "saved by gensim"),
        (b"version https://git-lfs.github.com", "git lfs pull"),
        (b"<html>", "web page"),
        (b"\x89HDF\r\n", "an HDF5 file"),
    ],
)
def test_advice_follows_from_the_content(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_word_vectors(write(tmp_path, content), 1, ["a"])
