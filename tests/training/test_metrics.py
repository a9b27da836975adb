"""U, S, H and T1 of predictions counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.training.metrics import gzsl, harmonic_mean, per_class_accuracy


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        ([1, 1, 2], [1, 1, 2], 100.0),
        ([0, 0, 0], [1, 1, 2], 0.0),
        # Class 1: 1 of 4; class 7: 1 of 1. Per image it would be 40.
        ([1, 0, 0, 0, 7], [1, 1, 1, 1, 7], 62.5),
        # Class ids need not begin at 0 nor be contiguous; a class only predicted does not count.
        ([90, 5, 5, 3], [90, 90, 5, 5], 50.0),
        ([4], [4], 100.0),
    ],
)
def test_per_class_accuracy(predictions: list[int], labels: list[int], expected: float) -> None:
    found = per_class_accuracy(np.array(predictions), np.array(labels))
    assert isinstance(found, float)
    assert found == pytest.approx(expected, abs=1e-12)


def test_order_of_images_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 9, 200), rng.integers(0, 9, 200)
    rates = [(predictions[labels == k] == k).mean() for k in range(9)]
    order = rng.permutation(200)
    found = per_class_accuracy(predictions[order], labels[order])
    assert found == pytest.approx(100 * np.mean(rates), abs=1e-10)


@pytest.mark.parametrize(
    ("unseen", "seen", "expected"),
    [(0, 0, 0), (0, 80, 0), (50, 50, 50), (20, 80, 32), (80, 20, 32), (1e-3, 1e-3, 1e-3)],
)
def test_harmonic_mean(unseen: float, seen: float, expected: float) -> None:
    assert harmonic_mean(unseen, seen) == pytest.approx(expected, abs=1e-12)


def test_gzsl() -> None:
    found = gzsl(
        seen_predictions=np.array([0, 0, 1, 4]),  # class 0: 2 of 2, class 1: 1 of 2
        seen_labels=np.array([0, 0, 1, 1]),
        unseen_predictions=np.array([4, 0, 0, 1, 5]),  # class 4: 1 of 4, class 5: 1 of 1
        unseen_labels=np.array([4, 4, 4, 4, 5]),
        zsl_predictions=np.array([4, 4, 5, 5, 4]),  # class 4: 2 of 4, class 5: 0 of 1
    )
    assert found == pytest.approx({"U": 62.5, "S": 75.0, "H": 2 * 62.5 * 75 / 137.5, "T1": 25.0})


def test_nothing_right_is_zero_not_nan() -> None:
    wrong, labels = np.array([1, 1]), np.array([0, 2])
    found = gzsl(wrong, labels, wrong, labels, wrong)
    assert found == {"U": 0.0, "S": 0.0, "H": 0.0, "T1": 0.0}
