"""Average precision and ROC AUC, against pairs and ranks counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.inference.report.ranking import average_precision, roc_auc


def pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    above = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[positive]
        for n in scores[~positive]
    ]
    return float(np.mean(above))


def precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Images of the same score come together."""
    return float(np.mean([np.mean(positive[scores >= s]) for s in scores[positive]]))


@pytest.mark.parametrize("decimals", [1, 8])
def test_against_counting(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    scores = np.round(rng.standard_normal((40, 6)), decimals)
    positive = rng.random((40, 6)) < np.linspace(0.1, 0.9, 6)
    for column in range(6):
        s, p = scores[:, column], positive[:, column]
        assert roc_auc(scores, positive)[column] == pytest.approx(pairs(s, p))
        assert average_precision(scores, positive)[column] == pytest.approx(precision(s, p))


def test_by_hand() -> None:
    """Of four images the first and the third have it: (1/1 + 2/3) / 2, and 3 of 4 pairs."""
    scores = np.array([[0.9, 0.8, 0.7, 0.6]]).T
    positive = np.array([[True, False, True, False]]).T
    assert average_precision(scores, positive)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(scores, positive)[0] == pytest.approx(3 / 4)


def test_nothing_to_tell_apart() -> None:
    scores = np.zeros((3, 2))
    positive = np.array([[True, False]] * 3)
    assert np.isnan(average_precision(scores, positive)).all()
    assert np.isnan(roc_auc(scores, positive)).all()
