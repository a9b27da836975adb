"""The seen-unseen curve: an example by hand, and a slow reference that tries every bias."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dedn_jax.training.seen_unseen import SeenUnseenCurve, seen_unseen_curve


def slow(
    gap: np.ndarray, right: np.ndarray, labels: np.ndarray, unseen: np.ndarray
) -> tuple[list[tuple[float, float]], float]:
    """U and S at biases below, between and above all gaps, and AUSUC, by loops in float64."""
    edges = sorted(set(gap.tolist()))
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    points = []
    for gamma in [edges[0] - 1, *middles, edges[-1] + 1]:
        accuracy = []
        for kind in (True, False):
            each = []
            for k in sorted(set(labels[unseen == kind].tolist())):
                of_class = labels == k
                ok = right[of_class] & ((gap[of_class] < gamma) == kind)
                each.append(100 * ok.mean())
            accuracy.append(float(np.mean(each)))
        points.append((accuracy[0], accuracy[1]))
    area = 0.0
    for (u1, s1), (u2, s2) in itertools.pairwise(points):
        area += (u2 - u1) * (s1 + s2) / 2
    return points, area / 1e4


def problem(seed: int, images: int, ties: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 5, 6], rng.integers(0, 8, images)])
    unseen = labels >= 5
    gap = rng.normal(0.5, 1, len(labels)) - 0.8 * unseen
    return {
        "gap": np.round(gap, 1) if ties else gap,
        "right": rng.random(len(labels)) < 0.7,
        "labels": labels,
        "unseen": unseen,
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_against_every_bias(seed: int, ties: bool) -> None:
    data = problem(seed, 150, ties)
    curve = seen_unseen_curve(**data)
    points, area = slow(**data)
    assert curve.area == pytest.approx(area, abs=1e-12)
    best = max(2 * u * s / (u + s) if u + s else 0.0 for u, s in points)
    gamma, h = curve.best(near=0.0)
    assert h == pytest.approx(best, abs=1e-9)
    at_gamma, _ = slow(**{**data, "gap": np.where(data["gap"] < gamma, -1.0, 1.0)})
    u, s = at_gamma[1]  # between the two: as at gamma
    assert 2 * u * s / (u + s) == pytest.approx(h, abs=1e-9)


def test_a_known_area() -> None:
    """S falls from 100 to 0 in four steps while U rises in four: a staircase below the diagonal."""
    gap = np.array([0.0, 1, 2, 3, 0.5, 1.5, 2.5, 3.5])
    unseen = np.arange(8) >= 4
    curve = seen_unseen_curve(gap, np.ones(8, bool), np.where(unseen, 1, 0), unseen)
    assert curve.unseen.tolist() == [0, 0, 25, 25, 50, 50, 75, 75, 100]
    assert curve.seen.tolist() == [100, 75, 75, 50, 50, 25, 25, 0, 0]
    # Three steps of width 1/4 at 3/4, 1/2, 1/4; the last one is at 0.
    assert curve.area == pytest.approx((0.75 + 0.5 + 0.25) / 4)
    assert curve.best(near=0.0) == (1.75, pytest.approx(50.0))


def test_perfect_and_hopeless() -> None:
    unseen, labels = np.array([False, True]), np.array([0, 1])
    perfect = seen_unseen_curve(np.array([1.0, -1.0]), np.ones(2, bool), labels, unseen)
    assert perfect.area == 1.0
    assert perfect.best(near=5.0) == (0.0, 100.0)
    hopeless = seen_unseen_curve(np.array([1.0, -1.0]), np.zeros(2, bool), labels, unseen)
    assert hopeless.area == 0.0
    assert hopeless.best(near=5.0) == (5.0, 0.0)


def test_of_several_best_the_nearest() -> None:
    """H is 66.7 from 1 to 2 and from 5 to 9: the middle of the interval nearer to what was."""
    curve = SeenUnseenCurve(
        gaps=np.array([1.0, 2.0, 5.0, 9.0]),
        unseen=np.array([0.0, 50.0, 50.0, 100.0, 100.0]),
        seen=np.array([100.0, 100.0, 50.0, 50.0, 0.0]),
    )
    assert curve.best(near=2.0)[0] == 1.5
    assert curve.best(near=6.0)[0] == 7.0
