"""Feature stores: normalisation, gathering, reading from disk."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features.maps import (
    InMemoryFeatures,
    UnreadFeatures,
    check_channels_first,
    normalize,
)
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


@pytest.mark.parametrize("indices", [[9], [-1], [0.5], [[0, 1]]], ids=str)
def test_indices_are_checked(indices):
    raw = raw_maps(DTYPES[0])
    features = InMemoryFeatures(normalize(raw.reshape(9, 16, 6), "float32"))
    with pytest.raises(IndexError):
        features[np.array(indices)]


def test_unread_features_have_sizes_alone():
    features = UnreadFeatures(9, 16, 6, "float16")
    assert (len(features), features.channels, features.regions) == (9, 16, 6)
    assert features.dtype == np.float16
    with pytest.raises(RuntimeError, match="loaded for its sizes alone"):
        features[np.array([0])]


CHANNELS_FIRST = [
    *((2048, 7, 7), (2048, 14, 14), (96, 8, 8), (8, 2, 2), (16, 3, 2), (384, 16, 16), (2, 1, 9)),
    *((384, 32, 32), (512, 1, 196), (6, 4, 1), (2048, 14, 28), (1, 1, 1)),
    *((2048, 49), (384, 1024), (768, 577), (256, 1024), (16, 49), (8, 4), (1024, 200), (3, 2)),
]
CHANNELS_LAST = [
    *((7, 7, 2048), (14, 14, 2048), (2, 2, 8), (1, 1, 2048), (7, 14, 2048), (14, 7, 2048)),
    *((49, 2048), (196, 1536), (50, 768), (49, 1024), (256, 384)),
]


@pytest.mark.parametrize("shape", CHANNELS_FIRST, ids=str)
def test_channels_first(shape):
    check_channels_first((9, *shape), "f.hdf5: feature_map")


@pytest.mark.parametrize("shape", CHANNELS_LAST, ids=str)
def test_channels_last(shape):
    turn = "0, 3, 1, 2" if len(shape) == 3 else "0, 2, 1"
    with pytest.raises(InputError, match=rf"channels last .* as .transpose\({turn}\)"):
        check_channels_first((9, *shape), "f.hdf5: feature_map")
