"""The validated structure, and the tasks made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedn_jax.data.dataset import (
    GZSLDataset,
    fingerprint_difference,
    trainval_task,
    validation_task,
)
from dedn_jax.data.features.maps import InMemoryFeatures, normalize
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.data.sources.class_embeddings import dimension_vectors
from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups
from tests.helpers.published import ARGUMENTS

SEEN = np.array([0, 2, 3, 5, 6, 8, 9, 11, 12, 13])
UNSEEN = np.array([1, 4, 7, 10])
PER_CLASS = 10
TRAINED = 7  # of a seen class; the others are test-seen


def parts(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    classes, attributes = 14, 5
    labels = rng.permutation(np.repeat(np.arange(classes), PER_CLASS)).astype(np.int32)
    by_class = [np.flatnonzero(labels == k) for k in range(classes)]
    maps = rng.random((len(labels), 4, 3), np.float32)
    return {
        "source": "here",
        "inputs": InMemoryFeatures(normalize(maps, "float32")),
        "labels": labels,
        "class_embeddings": rng.random((classes, attributes), np.float32),
        "word_vectors": rng.random((attributes, 3), np.float32),
        "trainval": rng.permutation(np.concatenate([by_class[k][:TRAINED] for k in SEEN])),
        "test_seen": np.concatenate([by_class[k][TRAINED:] for k in SEEN]),
        "test_unseen": np.concatenate([by_class[k] for k in UNSEEN]),
        "class_names": tuple(f"c{k}" for k in range(classes)),
        "attribute_names": tuple("vwxyz"),
    } | changes


def make(**changes: Any) -> GZSLDataset:
    return GZSLDataset(**parts(**changes))


def test_from_arrays():
    """Plain arrays of any type give the data set that a file of them gives."""
    fields = parts()
    maps = np.random.default_rng(1).random((140, 4, 3, 2))
    wanted = make(
        inputs=InMemoryFeatures(normalize(maps.reshape(140, 4, 6), "float32")),
        source="arrays",
        class_names=tuple(f"class {k}" for k in range(14)),
        attribute_names=tuple(f"attribute {a}" for a in range(5)),
    )
    names = ("trainval", "test_seen", "test_unseen", "word_vectors")
    found = GZSLDataset.from_arrays(
        features=maps,
        labels=fields["labels"].astype(np.uint8),
        class_embeddings=fields["class_embeddings"].astype(np.float64),
        **{name: fields[name] for name in names},
    )
    # Of the values as they were given, or as they are.
    assert fingerprint_difference(found.fingerprint(), wanted.fingerprint()) == ["features"]
    assert (found.source, found.class_names) == (wanted.source, wanted.class_names)
    images = np.array([3, 3, 139])
    np.testing.assert_array_equal(found.inputs[images], wanted.inputs[images])
    assert (found.labels.dtype, found.trainval.dtype) == (np.int32, np.int64)


def test_names_in_arrays() -> None:
    """They are plain text then, which JSON can hold."""
    fields = parts()
    named = {name: fields[name] for name in fields if name not in ("inputs", "source")}
    named["features"] = np.random.default_rng(1).random((140, 4, 6))
    arrays = {name: np.array(named[name]) for name in ("class_names", "attribute_names")}
    found = GZSLDataset.from_arrays(**named | arrays)
    for name in arrays:
        assert getattr(found, name) == fields[name]
        assert {type(one) for one in getattr(found, name)} == {str}


def test_groups_by_their_names() -> None:
    """As `DualExpert` takes them."""
    fields = parts()
    named = {name: fields[name] for name in fields if name not in ("inputs", "source")}
    maps = np.random.default_rng(1).random((140, 4, 6))
    groups = {"wing": [3, 0], "tail": np.array([1, 2, 4])}
    found = GZSLDataset.from_arrays(features=maps, **named, groups=groups).groups
    assert found == AttributeGroups(("wing", "tail"), ((0, 3), (1, 2, 4)))


def test_dimensions_without_names() -> None:
    fields = parts()
    names = ("trainval", "test_seen", "test_unseen", "labels", "class_embeddings")
    arrays = {name: fields[name] for name in names}
    arrays["features"] = np.random.default_rng(1).random((140, 4, 6))
    found = GZSLDataset.from_arrays(word_vectors=None, **arrays)
    np.testing.assert_array_equal(
        found.word_vectors, dimension_vectors(fields["class_embeddings"], found.class_names)
    )
    with pytest.raises(InputError, match="1 class names for embeddings of 14 classes"):
        GZSLDataset.from_arrays(word_vectors=None, class_names=["a"], **arrays)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_arrays_and_a_published_file_of_them_are_the_same_data_set(
    write_published: Callable[..., Path], fields: dict[str, Any], dtype: str
) -> None:
    from_file = read_published_hdf5(write_published(), dtype=dtype)
    arrays = {name: fields[field] for name, field in ARGUMENTS.items()}
    maps = fields["feature_map"]
    for features in (maps, maps.reshape(*maps.shape[:2], -1)):
        found = GZSLDataset.from_arrays(features=features, dtype=dtype, **arrays)
        assert found.fingerprint() == from_file.fingerprint()
        assert (found.class_names, found.attribute_names) == (
            from_file.class_names,
            from_file.attribute_names,
        )
        images = np.arange(len(maps))
        np.testing.assert_array_equal(found.inputs[images], from_file.inputs[images])
        for name in ARGUMENTS:
            assert getattr(found, name).dtype == getattr(from_file, name).dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.ones((140, 4))}, r"arrays: features has shape \(140, 4\), expected \[im"),
        ({"features": np.ones((139, 4, 3))}, "arrays: features has 139 images, labels has 140"),
        ({"features": np.ones((140, 4, 3), int)}, "features has type int64, expected floating-p"),
        ({"features": np.ones((140, 4, 0))}, r"features has shape \(140, 4, 0\), expected \[im"),
        ({"labels": np.arange(140) / 10}, "labels holds values that are not whole numbers"),
        ({"labels": np.full(140, 14)}, "labels run from 14 to 14, expected 0 to 13"),
        ({"labels": np.full(140, 2**32)}, "labels run from 4294967296 to 4294967296, expected 0"),
        ({"trainval": np.ones((2, 2), int)}, r"trainval has shape \(2, 2\) .* expected whole num"),
        ({"test_seen": [0, 140]}, "test_seen runs from 0 to 140, expected image indices 0 to 139"),
        ({"test_unseen": [0]}, "arrays: 1 images are in both trainval and test_unseen"),
        ({"validation_classes": ["a"]}, "validation_classes has shape .* expected whole numbers"),
        ({"class_names": ["a"]}, "1 class names and 5 attribute names for 14 classes"),
        ({"features": np.full((140, 4, 3), np.nan)}, "image 0 .* NaN or infinite"),
        (
            {"class_embeddings": np.ones(5)},
            r"class_embeddings has shape \(5,\) .* expected numbers \[cl",
        ),
        ({"word_vectors": np.ones((4, 3))}, r"word_vectors has shape \(4, 3\), expected \[5, word"),
        ({"word_vectors": np.full((5, 3), np.inf)}, "word_vectors holds NaN or infinite values"),
        ({"dtype": "float64"}, "dtype='float64', expected one of float32, bfloat16, float16"),
        ({"labels": [[0, 1], [2]]}, r"^arrays: labels: no array can be made of it \(.*; give a"),
        ({"features": [[[1.0], [2.0, 3.0]]]}, "^arrays: features: no array can be made of it"),
        ({"class_names": "a" * 14}, "^arrays: class_names='aaaaaaaaaaaaaa', expected a list with"),
        ({"class_names": 14}, "^arrays: class_names=14, expected a list with a name for each cl"),
        ({"class_names": []}, "0 class names and 5 attribute names for 14 classes"),
        (
            {"class_names": ["a", None]},
            r"^arrays: class_names\[1\]=None of type NoneType, expected text$",
        ),
        (
            {"attribute_names": np.arange(5)},
            r"^arrays: attribute_names\[0\]=.*0.* of type int64, expected text$",
        ),
        ({"groups": {"g": [0]}}, "groups"),
        ({"groups": {"g": ["wing"]}}, "groups: invalid literal .* expected a mapping of names to"),
        ({"groups": [[0, 1]]}, "^groups of type list, expected a mapping of names to attribute in"),
    ],
)
def test_refused_arrays(changes, message):
    fields = parts()
    named = {name: fields[name] for name in fields if name not in ("inputs", "source")}
    with pytest.raises(InputError, match=message) as refused:
        GZSLDataset.from_arrays(**{"features": np.ones((140, 4, 3)), **named, **changes})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "factor", "message"),
    [
        ("class_embeddings", 0, "attributes of class 'c2' are all 0, which .* or leave it out"),
        ("class_embeddings", 1e25, r"attributes of class 'c2' are of norm \S+e\+25; .*: scale att"),
        ("class_embeddings", 1e-14, r"attributes of class 'c2' are of norm \S+e-14; expected"),
        (
            "word_vectors",
            1e30,
            r"the word vector of attribute 'x' is of norm \S+e\+30; .*: scale w2v",
        ),
        ("word_vectors", 1e-30, r"the word vector of attribute 'x' is of norm \S+e-30; expected"),
    ],
)
def test_rows_that_float32_cannot_normalise(field: str, factor: float, message: str) -> None:
    rows = parts()[field]
    rows[2] *= np.float32(factor)
    with pytest.raises(InputError, match=f"here: {message}"):
        make(**{field: rows})


def test_rows_of_zeros_that_nothing_is_made_of() -> None:
    """A class without images that is no candidate, and a word without a vector."""
    data = parts()
    rest = {
        k: data[k][data["labels"][data[k]] != 1] for k in ("trainval", "test_seen", "test_unseen")
    }
    data["class_embeddings"][1] = data["word_vectors"][0] = 0
    assert not make(**data | rest).class_embeddings[1].any()
    with pytest.raises(InputError, match="w2v_att is all 0; build it again"):
        make(word_vectors=np.zeros((5, 3), np.float32))


def test_classes():
    data = make()
    assert (data.num_classes, data.num_attributes) == (14, 5)
    np.testing.assert_array_equal(data.seen_classes, SEEN)
    np.testing.assert_array_equal(data.unseen_classes, UNSEEN)


def test_trainval_task():
    data = make()
    task = trainval_task(data)
    np.testing.assert_array_equal(task.train, data.trainval)
    np.testing.assert_array_equal(task.eval_seen, data.test_seen)
    np.testing.assert_array_equal(task.eval_unseen, data.test_unseen)
    np.testing.assert_array_equal(task.labels, data.labels)
    np.testing.assert_array_equal(task.class_embeddings, data.class_embeddings)
    np.testing.assert_array_equal(np.flatnonzero(task.seen), SEEN)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("held", [None, [2, 13]], ids=["drawn", "given"])
def test_validation_task(held, seed):
    data = make(validation_classes=None if held is None else np.array(held))
    task = validation_task(data, class_share=0.3, image_share=0.25, seed=seed)

    # The true unseen classes and every test image are out of it.
    np.testing.assert_array_equal(task.class_ids, SEEN)
    images = np.concatenate([task.train, task.eval_seen, task.eval_unseen])
    assert not np.isin(images, np.concatenate([data.test_seen, data.test_unseen])).any()
    assert not np.isin(data.labels[images], UNSEEN).any()
    np.testing.assert_array_equal(np.sort(images), np.sort(data.trainval))  # each one once
    np.testing.assert_array_equal(task.labels == -1, np.isin(data.labels, UNSEEN))

    # Class ids are remapped, and everything that goes by class with them.
    inside = task.labels >= 0
    np.testing.assert_array_equal(task.class_ids[task.labels[inside]], data.labels[inside])
    np.testing.assert_array_equal(task.class_embeddings, data.class_embeddings[SEEN])

    # Validation classes are unseen to the task: 3 of 10, or the data set's own two.
    unseen = task.class_ids[~task.seen]
    assert len(unseen) == (3 if held is None else 2)
    if held is not None:
        np.testing.assert_array_equal(unseen, held)
    np.testing.assert_array_equal(np.unique(data.labels[task.eval_unseen]), unseen)
    assert len(task.eval_unseen) == len(unseen) * TRAINED

    # A quarter of the 7 training images of every other class, rounded: 2.
    kept = np.setdiff1d(SEEN, unseen)
    np.testing.assert_array_equal(np.bincount(data.labels[task.eval_seen], minlength=14)[kept], 2)
    np.testing.assert_array_equal(np.bincount(data.labels[task.train], minlength=14)[kept], 5)


def test_validation_task_is_deterministic():
    data = make()
    first = validation_task(data, 0.3, 0.25, seed=1)
    again = validation_task(make(), 0.3, 0.25, seed=1)
    other = validation_task(data, 0.3, 0.25, seed=2)
    for field in ("train", "eval_seen", "eval_unseen", "seen"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize(("share", "evaluated"), [(0.01, 1), (0.5, 4), (0.99, 6)])
def test_validation_images_are_some_but_not_all(share, evaluated):
    task = validation_task(make(), 0.2, share, seed=0)
    assert np.unique(task.labels[task.eval_seen], return_counts=True)[1].tolist() == [evaluated] * 8
    assert np.unique(task.labels[task.train], return_counts=True)[1].tolist() == [7 - evaluated] * 8


def test_validation_task_refuses_too_little():
    base = parts()
    trainval = base["trainval"]
    labels = base["labels"]
    two = np.isin(labels[trainval], [0, 2])
    data = make(
        trainval=trainval[two],
        test_seen=base["test_seen"][np.isin(labels[base["test_seen"]], [0, 2])],
    )
    with pytest.raises(InputError, match=r"^here: 2 seen classes, 1 of them for validation.*=last"):
        validation_task(data, 0.2, 0.2, seed=0)
    one_each = np.array([trainval[labels[trainval] == k][0] for k in SEEN])
    with pytest.raises(InputError, match=r"^here: every class has one training image.*=last"):
        validation_task(make(trainval=one_each), 0.2, 0.2, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"labels": p["labels"][:-1]}, "139 labels for 140 images"),
        (lambda p: {"labels": p["labels"] + 1}, "labels run from 1 to 14.*subtract 1"),
        (lambda p: {"labels": p["labels"][:, None]}, r"labels has shape \(140, 1\)"),
        (lambda p: {"test_seen": p["trainval"][:3]}, "3 images are in both trainval_loc and test"),
        (lambda p: {"test_unseen": p["test_unseen"] + 200}, "test_unseen_loc runs from"),
        (lambda p: {"word_vectors": p["word_vectors"][:4]}, r"w2v_att has shape \(4, 3\)"),
        (lambda p: {"class_embeddings": p["class_embeddings"] * np.nan}, "att holds NaN"),
        (lambda p: {"class_names": ("a",)}, "1 class names and 5 attribute names for 14"),
        (lambda p: {"validation_classes": np.array([0, 4])}, "validation class 4 is not a seen"),
        (
            lambda p: {"groups": AttributeGroups(("g",), ((0, 1),))},
            "groups cover 2 attributes of 5",
        ),
    ],
)
def test_construction_checks(change, message):
    with pytest.raises(InputError, match=f"^here: {message}") as caught:
        make(**change(parts()))
    assert "\n" not in str(caught.value)


def test_fingerprint():
    data = make()
    fingerprint = data.fingerprint()
    assert fingerprint == make().fingerprint()
    sizes = [fingerprint[k] for k in ("images", "channels", "regions", "classes", "attributes")]
    assert sizes == [140, 4, 3, 14, 5]
    changes = {
        "class_embeddings": {"class_embeddings": data.class_embeddings + 1},
        "word_vectors": {"word_vectors": data.word_vectors + 1},
        "splits": {"trainval": data.trainval[:-1]},
        "feature_sample": {"inputs": InMemoryFeatures(data.inputs[np.arange(140)[::-1]])},
    }
    for field, change in changes.items():
        other = dataclasses.replace(data, **change).fingerprint()
        images = ["features"] if field == "feature_sample" else []
        assert fingerprint_difference(fingerprint, other) == [field, *images]
    assert fingerprint_difference(fingerprint, fingerprint) == []


def test_what_one_side_lacks_is_not_compared() -> None:
    """Runs of earlier versions have a sample alone; data loaded for its sizes have neither."""
    now = make().fingerprint()
    before = {k: v for k, v in now.items() if k != "features"}
    assert fingerprint_difference(before, now) == fingerprint_difference(now, before) == []
    assert fingerprint_difference(now | {"feature_sample_large": "0"}, now) == []
    other = {**now, "features": {"of": "all values", "sha256": "0"}}
    assert fingerprint_difference(now, other) == ["features"]
    assert fingerprint_difference({**now, "channels": 5}, before) == ["channels"]


def test_one_image_of_many_is_noticed() -> None:
    """Of 140 images 64 are sampled."""
    data = make()
    values = np.array(data.inputs[np.arange(140)])
    sampled = set(np.linspace(0, 139, 64).astype(int).tolist())
    for image in sorted(set(range(140)) - sampled)[::19]:
        changed = values.copy()
        changed[image, 0, 0] += 1e-6
        other = dataclasses.replace(data, inputs=InMemoryFeatures(changed)).fingerprint()
        assert fingerprint_difference(data.fingerprint(), other) == ["features"]
