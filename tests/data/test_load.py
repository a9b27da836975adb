"""From `config.data` to a data set."""

from __future__ import annotations

import functools
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.config import base_config
from dedn_jax.data.demo import dataset as demo_dataset
from dedn_jax.data.demo.dataset import demo_cache_dir
from dedn_jax.data.features import InMemoryFeatures, MappedFeatures, normalize
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError


def config_with(**data):
    config = base_config()
    config.data.update(data)
    return config


def test_published_hdf5(write_published, fields, tmp_path):
    np.save(tmp_path / "v.npy", np.arange(10.0).reshape(5, 2))
    path = str(write_published())
    data = load_dataset(config_with(path=path))
    assert isinstance(data.inputs, InMemoryFeatures)
    assert data.inputs.dtype == np.float32
    np.testing.assert_array_equal(data.word_vectors, fields["w2v_att"].astype(np.float32))
    assert data.class_embeddings.min() < 0

    data = load_dataset(
        config_with(
            path=path,
            dtype="bfloat16",
            memory_map=True,
            clip_negative_embeddings=True,
            word_vectors=str(tmp_path / "v.npy"),
        )
    )
    assert isinstance(data.inputs, MappedFeatures)
    assert data.inputs.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(data.word_vectors, np.arange(10.0).reshape(5, 2))
    assert data.class_embeddings.min() == 0


def test_no_path():
    with pytest.raises(InputError, match=r"config\.data\.path is empty.*data\.format=demo"):
        load_dataset(config_with(path=""))


def test_unknown_format():
    with pytest.raises(InputError, match=r"config\.data\.format='tar', expected published_hdf5"):
        load_dataset(config_with(format="tar"))


@functools.cache
def two_a_class(draw=demo_dataset.demo_pictures):
    return draw(0, None, image_size=32, images_per_class=2)


@pytest.fixture
def small_demo(monkeypatch):
    """The demo with two pictures a class and a filter bank that takes no time."""
    calls = types.SimpleNamespace(filter_bank=0, cache_dirs=[])

    def demo_pictures(seed, cache_dir):
        assert seed == 0
        calls.cache_dirs.append(cache_dir)
        return two_a_class()

    def filter_bank(images, *, side=7):
        calls.filter_bank += 1
        cells = images[:, : 4 * side, : 4 * side].reshape(len(images), side, 4, side, 4, 3)
        return np.moveaxis(cells.mean((2, 4)), -1, 1).astype(np.float32)

    monkeypatch.setattr(demo_dataset, "demo_pictures", demo_pictures)
    monkeypatch.setattr(demo_dataset.filterbank, "filter_bank", filter_bank)
    calls.expected = lambda: normalize(
        filter_bank(two_a_class().images).reshape(-1, 3, 49), "float32"
    )
    return calls


def test_demo(small_demo, tmp_path):
    config = config_with(format="demo", path=str(tmp_path / "cache"))
    data = load_dataset(config)
    images = len(data.labels)
    assert data.source == "demo"
    assert (len(data.inputs), data.inputs.channels, data.inputs.regions) == (images, 3, 49)
    np.testing.assert_array_equal(data.inputs[np.arange(images)], small_demo.expected())
    assert small_demo.cache_dirs == [tmp_path / "cache"]
    assert data.groups is not None
    assert sorted(data.groups.order) == list(range(data.num_attributes))
    assert data.validation_classes is not None
    assert np.isin(data.validation_classes, data.seen_classes).all()
    assert not np.isin(data.unseen_classes, data.seen_classes).any()
    assert data.class_embeddings.dtype == data.word_vectors.dtype == np.float32


def test_demo_features_are_kept(small_demo, tmp_path):
    config = config_with(format="demo", path=str(tmp_path))
    first = load_dataset(config).fingerprint()
    assert small_demo.filter_bank == 1
    assert load_dataset(config).fingerprint() == first
    assert small_demo.filter_bank == 1
    (kept,) = tmp_path.glob("demo-features-*.npy")
    kept.write_bytes(kept.read_bytes()[:-5])  # damaged: made again
    assert load_dataset(config).fingerprint() == first
    assert small_demo.filter_bank == 2
    assert load_dataset(config).fingerprint() == first
    assert small_demo.filter_bank == 2
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left


def test_demo_options(small_demo, tmp_path):
    attributes = load_dataset(config_with(format="demo", path=str(tmp_path))).num_attributes
    vectors = np.random.default_rng(0).random((attributes, 4), np.float32)
    np.save(tmp_path / "v.npy", vectors)
    data = load_dataset(
        config_with(
            format="demo",
            path=str(tmp_path),
            dtype="float16",
            word_vectors=str(tmp_path / "v.npy"),
        )
    )
    assert data.inputs.dtype == np.float16
    np.testing.assert_array_equal(data.word_vectors, vectors)


def test_demo_without_a_cache(small_demo, monkeypatch):
    monkeypatch.setattr(demo_dataset, "demo_cache_dir", lambda path: None)
    data = load_dataset(config_with(format="demo"))
    np.testing.assert_array_equal(data.inputs[np.arange(len(data.labels))], small_demo.expected())


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert demo_cache_dir() == tmp_path / "home" / ".cache" / "dedn-jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert demo_cache_dir() == tmp_path / "home" / ".cache" / "dedn-jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = demo_cache_dir()
    assert folder == tmp_path / "xdg" / "dedn-jax"
    assert folder.is_dir()
    assert demo_cache_dir("~/demo") == tmp_path / "home" / "demo"
    assert not Path("relative").exists()


def test_cache_dir_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot keep the demo pictures there: .*exists"):
        demo_cache_dir(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert demo_cache_dir() is None
