"""Candidate classes: a run's, some of them, and new ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.scores import Branches
from tests.helpers.picture_runs import PictureRuns

KNOWN = Candidates(
    names=("owl", "wren", "auk"),
    embeddings=np.array([[3, 4, 0], [0, 0, 2], [1, 2, 2]], np.float32),
    seen=np.array([True, True, False]),
    attribute_names=("wing", "beak", "tail"),
)


def test_of_a_run(picture_runs: PictureRuns) -> None:
    found, data = Candidates.of_run(picture_runs.images), picture_runs.images.dataset
    assert found.names == data.class_names
    assert found.attribute_names == data.attribute_names
    np.testing.assert_array_equal(found.embeddings, data.class_embeddings)
    np.testing.assert_array_equal(found.seen, np.arange(8) < 6)


def test_some_of_them() -> None:
    assert KNOWN.only("all") is KNOWN
    assert KNOWN.only("seen").names == ("owl", "wren")
    unseen = KNOWN.only("unseen")
    assert unseen.names == ("auk",) and not unseen.seen.any()
    np.testing.assert_array_equal(unseen.embeddings, [[1, 2, 2]])
    with pytest.raises(InputError, match="among=seen: none of the 1 classes is seen"):
        unseen.only("seen")
    with pytest.raises(InputError, match="among='new', expected one of all, seen, unseen"):
        KNOWN.only("new")  # type: ignore[arg-type]


def test_new_classes() -> None:
    described = {"roc": [1, 0, 0], "moa": {"tail": 0.5, "beak": 2, "wing": 0}}
    more = KNOWN.with_new(described)
    assert more.names == ("owl", "wren", "auk", "roc", "moa")
    np.testing.assert_array_equal(more.embeddings[3:], [[1, 0, 0], [0, 2, 0.5]])
    np.testing.assert_array_equal(more.seen, [True, True, False, False, False])
    alone = KNOWN.with_new(described, only=True)
    assert alone.names == ("roc", "moa") and not alone.seen.any()
    assert KNOWN.with_new({"owl": [1, 0, 0]}, only=True).names == ("owl",)


def test_new_classes_are_clipped_as_the_data_set_is() -> None:
    clipping = Candidates(
        *(getattr(KNOWN, f) for f in ("names", "embeddings", "seen")), KNOWN.attribute_names, True
    )
    row = {"roc": [1, -2, 0]}
    np.testing.assert_array_equal(clipping.with_new(row).embeddings[-1], [1, 0, 0])
    np.testing.assert_array_equal(KNOWN.with_new(row).embeddings[-1], [1, -2, 0])
    with pytest.raises(InputError, match="all attributes are 0"):
        clipping.with_new({"roc": [0, -2, 0]})


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, "no new class"),
        ({7: [1, 0, 0]}, "new class 7 of type int, expected text as its name"),
        ({None: [1, 0, 0]}, "new class None of type NoneType, expected text"),
        ({"owl": [1, 0, 0]}, "class 'owl' is one of the run's classes already"),
        ([1, 0, 0], "new classes of type list, expected a mapping from names to attributes"),
        ({"roc": [1, 0]}, r"'roc': attributes of shape \(2,\), expected 3 numbers"),
        ({"roc": [1, 0, np.nan]}, "NaN, infinite or huge values"),
        ({"roc": [1, 0, np.inf]}, "NaN, infinite or huge values"),
        ({"roc": [1e30, 0, 0]}, "NaN, infinite or huge values"),
        ({"roc": [0, 0, 0]}, "all attributes are 0"),
        ({"roc": ["big", 0, 0]}, "its attributes are not all numbers"),
        ({"roc": {"wing": 1}}, "'roc': 2 of 3 attributes are missing: 'beak', 'tail'; add"),
        (
            {"roc": dict.fromkeys((*KNOWN.attribute_names, "crest"), 1)},
            "'roc': unknown attributes: 'crest'; remove",
        ),
    ],
)
def test_descriptions_that_cannot_be_used(described: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KNOWN.with_new(described)


def test_class_scores_are_products_with_normalised_embeddings() -> None:
    rng = np.random.default_rng(0)
    experts = [Branches(*rng.standard_normal((2, 4, 3)).astype(np.float32)) for _ in range(2)]
    found = KNOWN.scores(PerExpert(*experts))
    z = np.array([[0.6, 0.8, 0], [0, 0, 1], [1 / 3, 2 / 3, 2 / 3]])
    np.testing.assert_allclose(KNOWN.normalized, z, rtol=1e-6)
    for scores, attributes in zip(found.classes, experts, strict=True):
        np.testing.assert_allclose(scores.region, attributes.region @ z.T, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores.channel, attributes.channel @ z.T, rtol=1e-5, atol=1e-6)
    assert found.seen is KNOWN.seen
