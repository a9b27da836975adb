"""Feature stores: normalisation, gathering, reading from disk."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features.maps import InMemoryFeatures, MappedFeatures, normalize
from dedn_jax.errors import InputError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), BFLOAT16, np.dtype(np.float16)]
# Largest rounding error of a number in [0, 1].
ROUNDING = {np.dtype(np.float32): 2e-7, BFLOAT16: 2.0**-9, np.dtype(np.float16): 2.0**-12}


def raw_maps(dtype: np.dtype, images: int = 9) -> np.ndarray:
    maps = np.random.default_rng(1).gamma(0.5, 3, (images, 16, 3, 2))
    maps[0] = 0  # an image without any response
    maps[1, :, 1, 1] = 0  # a region without one
    return maps.astype(dtype)


def expected(raw: np.ndarray) -> np.ndarray:
    x = raw.astype(np.float64).reshape(*raw.shape[:2], -1)
    return x / np.maximum(np.sqrt((x**2).sum(axis=1, keepdims=True)), 1e-12)


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_normalize(stored, target):
    raw = raw_maps(stored)
    result = normalize(raw.reshape(9, 16, 6), target)
    assert result.dtype == target
    assert result.shape == (9, 16, 6)
    error = np.abs(result.astype(np.float64) - expected(raw)).max()
    assert error <= ROUNDING[target]
    assert not result[0].any()
    assert not result[1, :, 3].any()


def test_normalize_by_hand():
    raw = np.array([[[3.0, 0.0], [4.0, 2.0]]], np.float32)  # 1 image, 2 channels, 2 regions
    np.testing.assert_allclose(normalize(raw, "float32"), [[[0.6, 0], [0.8, 1]]], rtol=1e-7)


def test_normalize_does_not_depend_on_the_batch():
    raw = raw_maps(DTYPES[0]).reshape(9, 16, 6)
    one_by_one = np.concatenate([normalize(raw[i : i + 1], "float32") for i in range(9)])
    np.testing.assert_array_equal(normalize(raw, "float32"), one_by_one)


def test_normalize_in_place():
    raw = raw_maps(DTYPES[0]).reshape(9, 16, 6)
    result = normalize(raw.copy(), "float32")
    normalize(raw, "float32", out=raw)
    np.testing.assert_array_equal(raw, result)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_normalize_names_the_image(bad):
    raw = raw_maps(DTYPES[0]).reshape(9, 16, 6)
    raw[4, 2, 5] = bad
    with pytest.raises(InputError, match=r"^there: image 104 \(0-based\) has NaN or infinite"):
        normalize(raw, "float32", source="there", images=np.arange(100, 109))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_memory_gathers(dtype):
    array = np.arange(7 * 4 * 3).reshape(7, 4, 3).astype(dtype)
    features = InMemoryFeatures(array)
    assert (len(features), features.channels, features.regions) == (7, 4, 3)
    batch = features[np.array([6, 0, 0, 3])]
    assert batch.dtype == features.dtype == dtype
    np.testing.assert_array_equal(batch, array[[6, 0, 0, 3]])
    assert features[np.array([], np.int64)].shape == (0, 4, 3)


LAYOUTS = {
    "contiguous": {},
    "one image a chunk": {"chunks": (1, 16, 3, 2), "compression": "gzip"},
    "many images a chunk": {"chunks": (4, 5, 1, 2), "compression": "lzf"},
    "chunked": {"chunks": (2, 16, 3, 2)},
}


def write(path: Path, raw: np.ndarray, layout: str = "contiguous", **file: int) -> Path:
    with h5py.File(path, "w", **file) as f:
        f.create_dataset("padding", data=np.zeros(3, np.uint8))
        f.create_dataset("feature_map", data=raw, **LAYOUTS[layout])
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("stored", [*DTYPES, np.dtype(">f4"), np.dtype(np.float64)], ids=str)
def test_mapped_equals_in_memory(tmp_path, stored, target, layout):
    raw = raw_maps(stored)
    mapped = MappedFeatures(write(tmp_path / "f.hdf5", raw, layout), target)
    memory = InMemoryFeatures(normalize(raw.reshape(9, 16, 6), target))
    assert mapped.memory_mapped == (layout == "contiguous")
    assert (len(mapped), mapped.channels, mapped.regions, mapped.dtype) == (9, 16, 6, target)
    for indices in ([8, 2, 2, 0, 5], [0], list(range(9)), []):
        batch = mapped[np.array(indices, np.int64)]
        assert batch.dtype == target
        np.testing.assert_array_equal(batch, memory[np.array(indices, np.int64)])


def test_user_block_and_foreign_float_are_not_mapped(tmp_path):
    raw = raw_maps(DTYPES[0])
    shifted = MappedFeatures(write(tmp_path / "u.hdf5", raw, userblock_size=512), "float32")
    assert not shifted.memory_mapped
    np.testing.assert_allclose(shifted[np.arange(9)], expected(raw), atol=2e-7)

    # bfloat16 as a floating-point type of HDF5's own making: h5py reads it as float32.
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    raw = raw_maps(BFLOAT16)
    with h5py.File(tmp_path / "b.hdf5", "w") as f:
        space = h5py.h5s.create_simple(raw.shape)
        dataset = h5py.h5d.create(f.id, b"feature_map", kind, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, raw.astype(np.float32))
    foreign = MappedFeatures(tmp_path / "b.hdf5", "float32")
    assert not foreign.memory_mapped
    np.testing.assert_array_equal(
        foreign[np.arange(9)], normalize(raw.reshape(9, 16, 6), "float32")
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mapped_survives_pickling_and_threads(tmp_path, layout):
    raw = raw_maps(DTYPES[0])
    mapped = MappedFeatures(write(tmp_path / "f.hdf5", raw, layout), "float32")
    whole = mapped[np.arange(9)]
    state = pickle.dumps(mapped)
    assert len(state) < 2000  # the file's name, not its content
    again = pickle.loads(state)
    results: list[np.ndarray] = [np.empty(0)] * 4

    def read(i: int) -> None:
        for _ in range(20):
            results[i] = again[np.arange(9)[::-1]]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        np.testing.assert_array_equal(result, whole[::-1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mapped_names_the_bad_image(tmp_path, layout):
    raw = raw_maps(DTYPES[0])
    raw[6, 1, 2, 0] = np.nan
    mapped = MappedFeatures(write(tmp_path / "f.hdf5", raw, layout), "float32")
    mapped[np.array([0, 5, 7])]
    with pytest.raises(InputError, match=r"f\.hdf5: feature_map: image 6 \(0-based\)"):
        mapped[np.array([0, 6, 7])]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mapped_file_gone(tmp_path, layout):
    path = write(tmp_path / "f.hdf5", raw_maps(DTYPES[0]), layout)
    state = pickle.dumps(MappedFeatures(path, "float32"))
    path.unlink()
    with pytest.raises(InputError, match=r"f\.hdf5: cannot (read|map) feature_map: "):
        pickle.loads(state)[np.array([0])]


def test_mapped_refuses_other_fields(tmp_path):
    with h5py.File(tmp_path / "f.hdf5", "w") as f:
        f["feature_map"] = np.zeros((3, 4, 2, 2), np.int32)
    with pytest.raises(InputError, match="feature_map has type int32"):
        MappedFeatures(tmp_path / "f.hdf5", "float32")


@pytest.mark.parametrize("indices", [[9], [-1], [0.5], [[0, 1]]], ids=str)
def test_indices_are_checked(tmp_path, indices):
    raw = raw_maps(DTYPES[0])
    stores = [
        InMemoryFeatures(normalize(raw.reshape(9, 16, 6), "float32")),
        MappedFeatures(write(tmp_path / "a.hdf5", raw), "float32"),
        MappedFeatures(write(tmp_path / "b.hdf5", raw, "chunked"), "float32"),
    ]
    for store in stores:
        with pytest.raises(IndexError):
            store[np.array(indices)]
