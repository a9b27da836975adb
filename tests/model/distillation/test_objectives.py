"""Every objective against its formula in float64, where experts are equal, and at huge scores."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model.distillation import OBJECTIVES
from tests.model.distillation.formulas import FORMULAS, Said, entropy, softmax
from tests.model.distillation.made_up import (
    ATTRIBUTES,
    CASES,
    IMAGES,
    arrays_of,
    gradient_of,
    peers_of,
    said,
    setting,
    value_and_gradient,
)

ALL = pytest.mark.parametrize("case", CASES)


def numeric_gradient(f: Callable[[Said], float], x: Said, step: float = 1e-6) -> Said:
    """Central differences by every number."""

    def by_field(name: str) -> np.ndarray:
        value = getattr(x, name)
        gradient = np.empty_like(value)
        for i in np.ndindex(*value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[i] += sign * step
                ends.append(f(x._replace(**{name: moved})))
            gradient[i] = (ends[0] - ends[1]) / (2 * step)
        return gradient

    return Said(*map(by_field, Said._fields))


def test_every_objective_has_a_formula() -> None:
    assert FORMULAS.keys() == OBJECTIVES.keys() == {name for name, _ in CASES.values()}


def test_the_batch_has_every_case() -> None:
    """Either expert is the surer, is the better, is the longer; is right and is wrong."""
    x, at = said(), setting()
    c, f = (softmax(at.scores(p, False)) for p in (x.coarse, x.fine))
    of_label = [np.take_along_axis(p, at.labels[:, None], 1) for p in (c, f)]
    both = {False, True}
    assert set(entropy(c) < entropy(f)) == both
    assert set((of_label[0] < of_label[1])[:, 0]) == both
    assert set(np.linalg.norm(x.coarse, axis=1) < np.linalg.norm(x.fine, axis=1)) == both
    for p in (c, f):
        assert set(p.argmax(1) == at.labels) == both


@ALL
def test_value_and_gradient(case: str) -> None:
    """A teacher is held: the formula's differences leave what it says as it is."""
    name, options = CASES[case]
    x, at, formula = said(), setting(), FORMULAS[name]
    value, gradient = value_and_gradient(case)(arrays_of(x))
    assert value.dtype == jnp.float32
    expected = formula(x, x, at, **options)
    assert expected > 1e-3
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    slopes = numeric_gradient(lambda moved: formula(moved, x, at, **options), x)
    largest = max(np.abs(s).max() for s in slopes)
    assert largest > 1e-3
    for field, mine, theirs in zip(Said._fields, gradient_of(gradient), slopes, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * largest, err_msg=field)


def equal_experts(x: Said) -> Said:
    """The fine expert says what the coarse one does, and either the same of the dropped maps."""
    same = (x.coarse, x.coarse, x.coarse, x.coarse)
    return Said(*same, np.eye(ATTRIBUTES), np.eye(ATTRIBUTES))


@pytest.mark.parametrize("case", [case for case in CASES if case != "norm_direction"])
def test_equal_experts_have_nothing_to_learn(case: str) -> None:
    # Plans of few iterations are not quite symmetric.
    tolerance = 5e-5 if "sinkhorn" in case else 2e-6
    value, gradient = value_and_gradient(case)(arrays_of(equal_experts(said())))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    for field, slope in zip(Said._fields, gradient_of(gradient), strict=True):
        np.testing.assert_allclose(slope, 0, atol=tolerance, err_msg=field)


def test_norm_direction_of_equal_experts() -> None:
    """Not 0, but what is left of each image's angle to the mean of its class in the batch."""
    x, at = equal_experts(said()), setting()
    find = value_and_gradient("norm_direction")
    value, _ = find(arrays_of(x))
    cosines = []
    for p, label in zip(x.coarse, at.labels, strict=True):
        mean = x.coarse[at.labels == label].mean(0)
        cosines.append(p @ mean / np.linalg.norm(p) / np.linalg.norm(mean))
    np.testing.assert_allclose(value, 2 * (1 - np.mean(cosines)), rtol=1e-5)
    # Where every image is the mean of its class it is 0, and there is no slope sideways.
    x = equal_experts(x._replace(coarse=5 * at.z[at.labels]))
    value, gradient = find(arrays_of(x))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    slope = gradient_of(gradient).coarse
    along = (slope * x.coarse).sum(1, keepdims=True) * x.coarse / (x.coarse**2).sum(1)[:, None]
    np.testing.assert_allclose(slope - along, 0, atol=1e-6)


def test_norm_direction_is_paid_for_length_up_to_the_teachers() -> None:
    """A student that points to the mean: 1 minus its length over the teacher's, at least 0."""
    at = setting()
    mean = 5 * at.z[at.labels]
    for length in (0.25, 0.5, 1.0, 3.0):
        x = equal_experts(said())._replace(coarse=length * mean, fine=mean)
        value, _ = value_and_gradient("norm_direction")(arrays_of(x))
        assert float(value) == pytest.approx(1 - min(length, 1 / length), abs=1e-5)


@ALL
def test_huge_scores_stay_finite(case: str) -> None:
    shape = (IMAGES, ATTRIBUTES)
    mixed, other, *dropped = np.random.default_rng(11).choice([-1e4, 0.0, 1e4], (4, *shape))
    for coarse, fine in (
        *((mixed, other), (mixed, -mixed), (mixed, mixed), (mixed, np.zeros(shape))),
        *((np.full(shape, a), np.full(shape, b)) for a, b in ((1e4, -1e4), (1e4, 1e4), (0, 0))),
    ):
        x = Said(coarse, fine, *dropped, np.eye(ATTRIBUTES), -np.eye(ATTRIBUTES))
        value, gradient = value_and_gradient(case)(arrays_of(x))
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(gradient))


def test_d_inside_the_softmax_of_kl() -> None:
    """With `bias` off its size plays no part; with it on it does."""
    arrays = arrays_of(said())
    found = {
        (bias, size): float(
            OBJECTIVES["kl"](
                peers_of(arrays, at=setting()._replace(bias=size)),
                **CASES["kl"][1] | {"bias": bias},
            )
        )
        for bias in (False, True)
        for size in (0.0, 2.0)
    }
    assert found[False, 0.0] == found[False, 2.0] == found[True, 0.0] != found[True, 2.0]
