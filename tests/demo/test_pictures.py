"""The built-in demo set: the same bytes every time, honest splits, features that mean something."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.demo import DemoPictures, demo_pictures


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
    assert small.class_embeddings.dtype == np.float32
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
    word_vectors = hashed_word_vectors(small.attribute_words)
    vectors = dict(zip(small.attribute_names, word_vectors, strict=True))
    assert word_vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(word_vectors, axis=1), 1, atol=1e-6)
    red_wing = vectors["wing_color::red"]
    same_trait = red_wing @ vectors["wing_color::blue"]  # two of three words shared
    same_value = red_wing @ vectors["tail_color::red"]  # also two of three
    unrelated = red_wing @ vectors["ground::snow"]
    assert same_trait > 0.5 and same_value > 0.5 and abs(unrelated) < 0.25


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
