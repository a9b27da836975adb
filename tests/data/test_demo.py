"""The built-in demo set: the same bytes every time, honest splits, features that mean something."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dedn_jax.data.demo import DemoPictures, demo_pictures, filter_bank
from dedn_jax.data.demo.filterbank import COLOR_NAMES


@pytest.fixture(scope="module")
def small() -> DemoPictures:
    return demo_pictures(seed=3, image_size=64, images_per_class=4)


def test_same_seed_same_pictures(small: DemoPictures) -> None:
    again = demo_pictures(seed=3, image_size=64, images_per_class=2)
    of_class = small.images.reshape(len(small.class_names), 4, 64, 64, 3)
    np.testing.assert_array_equal(of_class[:, :2].reshape(again.images.shape), again.images)
    other = demo_pictures(seed=4, image_size=64, images_per_class=2)
    assert (other.images != again.images).mean() > 0.5
    np.testing.assert_array_equal(other.class_embeddings, again.class_embeddings)


def test_shapes_and_types(small: DemoPictures) -> None:
    classes, attributes = small.class_embeddings.shape
    assert (classes, attributes) == (50, 58)
    assert small.images.shape == (200, 64, 64, 3) and small.images.dtype == np.uint8
    assert small.labels.shape == (200,) and small.labels.dtype == np.int32
    assert len(set(small.class_names)) == classes
    assert len(set(small.attribute_names)) == attributes
    assert all("::" in name for name in small.attribute_names)
    assert small.class_embeddings.dtype == small.word_vectors.dtype == np.float32
    for indices in (small.trainval, small.test_seen, small.test_unseen, small.validation_classes):
        assert indices.dtype == np.int64


def test_pictures_of_a_class_differ_and_are_not_blank(small: DemoPictures) -> None:
    assert len({image.tobytes() for image in small.images}) == 200
    assert small.images.reshape(200, -1).std(axis=1).min() > 20


def test_splits_are_disjoint_and_cover_everything(small: DemoPictures) -> None:
    splits = [small.trainval, small.test_seen, small.test_unseen]
    np.testing.assert_array_equal(np.sort(np.concatenate(splits)), np.arange(200))
    trained = set(small.labels[small.trainval])
    unseen = set(small.labels[small.test_unseen])
    assert (len(trained), len(unseen), len(small.validation_classes)) == (40, 10, 8)
    assert not trained & unseen
    assert set(small.labels[small.test_seen]) == trained
    assert set(small.validation_classes) < trained
    # Three of four pictures of a seen class are for training, one for testing.
    assert np.bincount(small.labels[small.trainval])[:40].tolist() == [3] * 40


def test_unseen_classes_are_new_combinations_of_familiar_values(small: DemoPictures) -> None:
    embeddings = small.class_embeddings
    unseen = np.unique(small.labels[small.test_unseen])
    seen = np.setdiff1d(np.arange(len(embeddings)), unseen)
    training = np.setdiff1d(seen, small.validation_classes)
    # Every attribute is shown by several training classes, validation classes not counted.
    assert embeddings[training].sum(axis=0).min() >= 5
    # Fifteen traits, one value each; any two classes differ in nine of them or more.
    np.testing.assert_array_equal(embeddings.sum(axis=1), 15)
    shared = embeddings @ embeddings.T - 15 * np.eye(len(embeddings))
    assert shared.max() <= 6


def test_groups_hold_every_attribute_once(small: DemoPictures) -> None:
    groups = dict(small.attribute_groups)
    assert list(groups) == ["body", "head", "wing", "tail", "leg", "ground"]
    assert sorted(i for indices in groups.values() for i in indices) == list(range(58))
    for part, indices in groups.items():
        assert all(small.attribute_names[i].startswith(part) for i in indices)


def test_attributes_that_share_a_word_have_related_vectors(small: DemoPictures) -> None:
    vectors = dict(zip(small.attribute_names, small.word_vectors, strict=True))
    np.testing.assert_allclose(np.linalg.norm(small.word_vectors, axis=1), 1, atol=1e-6)
    red_wing = vectors["wing_color::red"]
    same_trait = red_wing @ vectors["wing_color::blue"]  # two of three words shared
    same_value = red_wing @ vectors["tail_color::red"]  # also two of three
    unrelated = red_wing @ vectors["ground::snow"]
    assert same_trait > 0.5 and same_value > 0.5 and abs(unrelated) < 0.25


def _only_cache_file(folder: pathlib.Path) -> pathlib.Path:
    (path,) = folder.iterdir()  # nothing temporary is left behind
    return path


def test_cache_is_used_and_recovers_from_damage(tmp_path: pathlib.Path) -> None:
    def draw() -> np.ndarray:
        return demo_pictures(1, tmp_path / "new", image_size=32, images_per_class=2).images

    first = draw()
    path = _only_cache_file(tmp_path / "new")
    intact = path.read_bytes()
    written = path.stat().st_mtime_ns
    np.testing.assert_array_equal(draw(), first)
    assert path.stat().st_mtime_ns == written  # read, not drawn again

    middle = len(intact) // 2
    flipped = intact[:middle] + bytes([intact[middle] ^ 0xFF]) + intact[middle + 1 :]
    for damaged in (b"", b"not an archive", intact[:-100], flipped):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(draw(), first)
        assert _only_cache_file(tmp_path / "new").read_bytes() == intact


def test_caches_of_different_sets_are_kept_apart(tmp_path: pathlib.Path) -> None:
    demo_pictures(1, tmp_path, image_size=32, images_per_class=2)
    other = demo_pictures(2, tmp_path, image_size=32, images_per_class=2)
    assert len(list(tmp_path.iterdir())) == 2
    fresh = demo_pictures(2, image_size=32, images_per_class=2)
    np.testing.assert_array_equal(other.images, fresh.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 8}, "image_size is 8"),
        ({"images_per_class": 1}, "images_per_class is 1"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo_pictures(**arguments)  # type: ignore[arg-type]


def test_filter_bank_shape_and_sign(small: DemoPictures) -> None:
    features = filter_bank(small.images[:5], side=4)
    assert features.shape[0] == 5 and features.shape[2:] == (4, 4)
    assert features.dtype == np.float32
    assert np.isfinite(features).all() and features.min() >= 0
    # A picture's features do not depend on the pictures it shares a batch with.
    np.testing.assert_allclose(filter_bank(small.images[3:4], side=4)[0], features[3], atol=1e-5)
    assert filter_bank(small.images[:0], side=4).shape == (0, *features.shape[1:])


@pytest.mark.parametrize("name", ["red", "yellow", "green", "blue", "purple", "black", "white"])
def test_a_patch_of_a_colour_activates_its_channel_where_it_is(name: str) -> None:
    image = np.full((1, 64, 64, 3), COLOR_NAMES["gray"], np.uint8)
    image[0, 16:32, 32:48] = COLOR_NAMES[name]
    # The first channels are the colour names.
    colors = filter_bank(image, side=4)[0, : len(COLOR_NAMES)]
    channel = list(COLOR_NAMES).index(name)
    assert np.unravel_index(colors[channel].argmax(), (4, 4)) == (1, 2)
    assert colors[:, 1, 2].argmax() == channel
    # Black and white differ from grey in brightness alone, which counts half.
    assert colors[channel, 1, 2] > (0.25 if name in ("black", "white") else 0.4)


def test_shifting_a_picture_by_a_cell_shifts_its_map() -> None:
    patch = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    images = np.full((2, 96, 96, 3), 128, np.uint8)
    images[0, 40:56, 32:48] = patch
    images[1, 40:56, 48:64] = patch  # a cell, 16 pixels, to the right
    here, there = filter_bank(images, side=6)
    assert here.max() > 0.1
    np.testing.assert_allclose(there[:, 1:-1, 2:5], here[:, 1:-1, 1:4], atol=0.02)
    assert np.abs(there - here).max() > 0.1


def test_orientation_channels_follow_the_stripes() -> None:
    columns = np.broadcast_to(np.arange(32)[None, :] // 2 % 2 * 255, (32, 32)).astype(np.uint8)
    image = np.full((2, 64, 64, 3), 128, np.uint8)
    image[0, 16:48, 16:48] = columns[..., None]
    image[1, 16:48, 16:48] = columns.T[..., None]
    upright, lying = filter_bank(image, side=4)
    np.testing.assert_allclose(upright.sum((1, 2))[:24], lying.sum((1, 2))[:24], atol=0.01)
    # After six times the twelve colours come six orientations of the finest octave, 0 and 90
    # degrees being the first and the fourth.
    across, along = upright[72].sum(), upright[75].sum()
    assert across > 3 * along
    assert lying[75].sum() > 3 * lying[72].sum()


def test_a_uniform_picture_has_an_empty_map() -> None:
    image = np.full((1, 64, 64, 3), (205, 58, 50), np.uint8)
    np.testing.assert_allclose(filter_bank(image, side=4), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "side"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), 4),
        (np.zeros((64, 64, 3), np.uint8), 4),
        (np.zeros((1, 16, 16, 3), np.uint8), 4),
        (np.zeros((1, 64, 64, 3), np.uint8), 0),
        (np.zeros((1, 64, 64, 3), np.uint8), 32),
    ],
)
def test_filter_bank_rejects_what_it_cannot_use(images: np.ndarray, side: int) -> None:
    with pytest.raises(ValueError, match="filter_bank: images"):
        filter_bank(images, side=side)
