"""From `config.data` to a data set."""

from __future__ import annotations

import functools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.config import base_config
from dedn_jax.data.features.maps import InMemoryFeatures, UnreadFeatures, normalize
from dedn_jax.data.features.store.manifest import StorePlan
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_dataset, load_prepared
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.data.sources import demo as demo_builder
from dedn_jax.data.sources.class_embeddings import dimension_vectors
from dedn_jax.demo.cache import demo_cache_dir
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
            clip_negative_embeddings=True,
            word_vectors=str(tmp_path / "v.npy"),
        ),
        sizes_only=True,
    )
    assert isinstance(data.inputs, UnreadFeatures)
    assert data.inputs.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(data.word_vectors, np.arange(10.0).reshape(5, 2))
    assert data.class_embeddings.min() == 0


def test_published_hdf5_is_not_memory_mapped(write_published):
    with pytest.raises(InputError, match=r"memory_map=true does not apply .*dedn features import"):
        load_dataset(config_with(path=str(write_published()), memory_map=True))


def test_no_path():
    with pytest.raises(InputError, match=r"config\.data\.path is empty.*=prepared or demo"):
        load_dataset(config_with(path=""))


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """The config of the demo with two pictures a class, of 32 by 32."""
    monkeypatch.setattr(
        demo_builder,
        "demo_pictures",
        functools.partial(demo_builder.demo_pictures, image_size=32, images_per_class=2),
    )
    config = config_with(format="demo", source="images", path=str(tmp_path / "cache"))
    config.picture.resize = config.picture.crop = 32
    return config


def test_demo(demo):
    data = load_dataset(demo)
    assert isinstance(data.inputs, Pictures)
    assert data.inputs[np.arange(3)].shape == (3, 32, 32, 3)
    assert len(data.inputs) == len(data.labels) == 100
    assert data.groups is not None
    assert sorted(data.groups.order) == list(range(data.num_attributes))
    assert data.validation_classes is not None
    assert np.isin(data.validation_classes, data.seen_classes).all()
    assert not np.isin(data.unseen_classes, data.seen_classes).any()
    assert data.class_embeddings.dtype == data.word_vectors.dtype == np.float32
    first = data.fingerprint()
    assert load_dataset(demo).fingerprint() == first
    demo.picture.resize = 48
    assert load_dataset(demo).fingerprint() == first  # the same pictures; the config differs


def test_changes_that_the_config_asks_for(demo, tmp_path):
    attributes = load_dataset(demo).num_attributes
    vectors = np.random.default_rng(0).random((attributes, 4), np.float32)
    np.save(tmp_path / "v.npy", vectors)
    demo.data.word_vectors = str(tmp_path / "v.npy")
    np.testing.assert_array_equal(load_dataset(demo).word_vectors, vectors)
    demo.data.word_vectors = ""
    sentences = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    np.save(tmp_path / "s.npy", sentences)
    demo.data.class_embeddings = str(tmp_path / "s.npy")
    data = load_dataset(demo)
    np.testing.assert_array_equal(data.class_embeddings, sentences)
    np.testing.assert_array_equal(data.word_vectors, dimension_vectors(sentences, data.class_names))
    assert data.attribute_names[6] == "dimension 6"
    assert data.groups is None  # the demo's are of its attributes


def test_sentences_of_a_published_file(write_published, tmp_path):
    """They need no word vectors of attributes; all else is as it was."""
    path = str(write_published(w2v_att=None))
    sentences = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    np.save(tmp_path / "s.npy", sentences)
    config = config_with(path=path, class_embeddings=str(tmp_path / "s.npy"))
    data = load_dataset(config)
    np.testing.assert_array_equal(data.class_embeddings, sentences)
    np.testing.assert_array_equal(data.word_vectors, dimension_vectors(sentences, data.class_names))
    assert len(data.trainval) == 12
    np.save(tmp_path / "v.npy", np.arange(18.0).reshape(9, 2))
    config.data.word_vectors = str(tmp_path / "v.npy")
    np.testing.assert_array_equal(load_dataset(config).word_vectors, np.arange(18).reshape(9, 2))
    config.data.clip_negative_embeddings = True
    with pytest.raises(InputError, match=r"clip_negative_embeddings=True, expected false"):
        load_dataset(config)


def test_a_store_with_its_pictures_and_alone(demo, tmp_path):
    prepared = load_prepared(demo)
    plan = StorePlan(
        images=100,
        channels=5,
        grid=(1, 2),
        dtype="float32",
        normalized=True,
        origin="extracted",
        pictures=prepared.digest,
        transform={"resize": 32, "crop": 32},
        backbone={"name": "resnet18", "sha256": "0" * 64, "dtype": "float32"},
    )
    maps = normalize(np.random.default_rng(0).random((100, 5, 2), np.float32), "float32")
    with StoreWriter(tmp_path / "store", plan, prepared.annotations) as writer:
        for shard in writer.missing():
            writer.write(shard, maps[writer.image_range(shard)])
        writer.finish()
    config = config_with(format="prepared", features=str(tmp_path / "store"))
    config.data.path = str(prepared.path)
    config.backbone.name = "resnet18"
    config.picture.resize = config.picture.crop = 32
    alone = config_with(format="store", path=str(tmp_path / "store"))
    for one in (config, alone):
        for memory_map in (False, True):
            one.data.memory_map = memory_map
            data = load_dataset(one)
            np.testing.assert_allclose(data.inputs[np.arange(100)], maps, atol=2e-7)
            np.testing.assert_array_equal(data.labels, prepared.annotations.labels)
    config.picture.resize = 40
    with pytest.raises(InputError, match=r"transform.resize=32, expected 40"):
        load_dataset(config)
    config.picture.resize = 32
    config.backbone.name = "resnet50"
    with pytest.raises(InputError, match=r'backbone.name="resnet18", expected "resnet50"'):
        load_dataset(config)
    config.backbone.name = "resnet18"
    (tmp_path / "w.npz").write_bytes(b"other weights")
    config.backbone.weights = str(tmp_path / "w.npz")
    with pytest.raises(InputError, match=r"backbone.sha256="):
        load_dataset(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "images"}, r"config\.data\.path is empty.*data build"),
        ({}, r"config\.data\.path is empty"),
        ({"path": "nowhere"}, "nowhere"),
        ({"features": "nowhere"}, r"config\.data\.path is empty"),
        ({"format": "store"}, r"config\.data\.path is empty.*dedn features"),
        ({"format": "store", "path": "nowhere"}, r"nowhere: no such folder, expected a feature"),
    ],
)
def test_prepared_paths(data, message):
    with pytest.raises(InputError, match=message):
        load_dataset(config_with(**{"format": "prepared", **data}))


def test_pictures_without_a_store(demo):
    folder = load_prepared(demo).path
    with pytest.raises(InputError, match=r"config\.data\.features is empty.*features extract"):
        load_dataset(config_with(format="prepared", path=str(folder)))


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
    with pytest.raises(InputError, match=r"file: cannot hold the demo pictures: .*exists"):
        demo_cache_dir(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert demo_cache_dir() is None
