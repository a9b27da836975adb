"""Feature maps in every layout and type that HDF5 files store them in."""

from __future__ import annotations

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features.hdf5 import read_features
from dedn_jax.data.features.maps import InMemoryFeatures, normalize
from dedn_jax.errors import InputError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), BFLOAT16, np.dtype(np.float16)]
LAYOUTS = {
    "contiguous": {},
    "one image a chunk": {"chunks": (1, 16, 3, 2), "compression": "gzip"},
    "many images a chunk": {"chunks": (4, 5, 1, 2), "compression": "lzf"},
    "chunked": {"chunks": (2, 16, 3, 2)},
}


def raw_maps(dtype: np.dtype) -> np.ndarray:
    """`[9, 16, 3, 2]` feature maps, one region of one image all zero."""
    raw = np.random.default_rng(0).standard_normal((9, 16, 3, 2))
    raw[1, :, 0, 0] = 0
    return raw.astype(dtype)


def write(path: Path, raw: np.ndarray, layout: str = "contiguous", **file: int) -> Path:
    with h5py.File(path, "w", **file) as f:
        f.create_dataset("padding", data=np.zeros(3, np.uint8))
        f.create_dataset("feature_map", data=raw, **LAYOUTS[layout])
    return path


def read(path: Path, dtype: np.dtype | str = "float32") -> InMemoryFeatures:
    with h5py.File(path) as file:
        return read_features(file["feature_map"], str(path), np.dtype(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("stored", [*DTYPES, np.dtype(">f4"), np.dtype(np.float64)], ids=str)
def test_layouts_and_types(tmp_path, stored, target, layout):
    raw = raw_maps(stored)
    features = read(write(tmp_path / "f.hdf5", raw, layout), target)
    assert (len(features), features.channels, features.regions) == (9, 16, 6)
    expected = normalize(raw.reshape(9, 16, 6), target)
    for indices in ([8, 2, 2, 0, 5], [0], list(range(9)), []):
        batch = features[np.array(indices, np.int64)]
        assert batch.dtype == target
        np.testing.assert_array_equal(batch, expected[np.array(indices, np.int64)])


def test_user_block_and_foreign_float(tmp_path):
    raw = raw_maps(DTYPES[0])
    shifted = read(write(tmp_path / "u.hdf5", raw, userblock_size=512))
    np.testing.assert_array_equal(
        shifted[np.arange(9)], normalize(raw.reshape(9, 16, 6), "float32")
    )

    # bfloat16 as a floating-point type of HDF5's own making: h5py reads it as float32.
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    raw = raw_maps(BFLOAT16)
    with h5py.File(tmp_path / "b.hdf5", "w") as f:
        space = h5py.h5s.create_simple(raw.shape)
        dataset = h5py.h5d.create(f.id, b"feature_map", kind, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, raw.astype(np.float32))
    foreign = read(tmp_path / "b.hdf5")
    np.testing.assert_array_equal(
        foreign[np.arange(9)], normalize(raw.reshape(9, 16, 6), "float32")
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_the_bad_image(tmp_path, layout):
    raw = raw_maps(DTYPES[0])
    raw[6, 1, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"f\.hdf5: feature_map: image 6 \(0-based\)"):
        read(write(tmp_path / "f.hdf5", raw, layout))
