"""GZSL metrics from predictions: U, S, H, T1, in percent."""

from __future__ import annotations

import numpy as np


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of each class that occurs in `labels`, averaged over these classes, in percent.

    >>> per_class_accuracy(np.array([0, 0, 1]), np.array([0, 0, 0]))  # one class, 2 of 3 right
    66.66666666666667

    Args:
      predictions: `[n]` class ids.
      labels: `[n]` class ids, n > 0.
    """
    classes, index = np.unique(labels, return_inverse=True)
    hits = np.bincount(index, weights=predictions == labels, minlength=len(classes))
    return float(100.0 * np.mean(hits / np.bincount(index, minlength=len(classes))))


def harmonic_mean(unseen: float, seen: float) -> float:
    """`H = 2US/(U+S)`; 0 where both are 0.

    >>> harmonic_mean(50.0, 100.0)
    66.66666666666667
    """
    return 2.0 * unseen * seen / (unseen + seen) if unseen + seen > 0 else 0.0


def gzsl(
    seen_predictions: np.ndarray,
    seen_labels: np.ndarray,
    unseen_predictions: np.ndarray,
    unseen_labels: np.ndarray,
    zsl_predictions: np.ndarray,
) -> dict[str, float]:
    """U, S, H and T1 in percent.

    >>> result = gzsl(
    ...     seen_predictions=np.array([0, 1]),
    ...     seen_labels=np.array([0, 1]),
    ...     unseen_predictions=np.array([2, 0]),
    ...     unseen_labels=np.array([2, 2]),
    ...     zsl_predictions=np.array([2, 2]),
    ... )
    >>> {name: round(value, 1) for name, value in result.items()}
    {'U': 50.0, 'S': 100.0, 'H': 66.7, 'T1': 100.0}

    Args:
      seen_predictions, seen_labels: `[n]` over the seen test images, chosen among all classes.
      unseen_predictions, unseen_labels: `[m]` over the unseen test images, among all classes.
      zsl_predictions: `[m]` over the unseen test images, chosen among unseen classes alone.
    """
    unseen = per_class_accuracy(unseen_predictions, unseen_labels)
    seen = per_class_accuracy(seen_predictions, seen_labels)
    return {
        "U": unseen,
        "S": seen,
        "H": harmonic_mean(unseen, seen),
        "T1": per_class_accuracy(zsl_predictions, unseen_labels),
    }
