"""GZSL metrics from predictions: U, S, H, T1, in percent; and AUSUC, of the seen-unseen curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from dedn_jax.training.seen_unseen import SeenUnseenCurve, seen_unseen_curve

__all__ = [
    "SeenUnseenCurve",
    "gzsl",
    "harmonic_mean",
    "per_class_accuracy",
    "seen_unseen_curve",
]


def per_class_accuracy(
    predictions: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> float:
    """Mean over the classes in `labels` of the accuracy of each, in percent.

    >>> per_class_accuracy(np.array([0, 1, 1]), np.array([0, 0, 1]))  # 50 and 100
    75.0

    Args:
      predictions: class ids, at least one.
      labels: class ids.
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
    seen_predictions: Int[np.ndarray, " seen_images"],
    seen_labels: Int[np.ndarray, " seen_images"],
    unseen_predictions: Int[np.ndarray, " unseen_images"],
    unseen_labels: Int[np.ndarray, " unseen_images"],
    zsl_predictions: Int[np.ndarray, " unseen_images"],
) -> dict[str, float]:
    """U, S, H and T1 in percent.

    Accuracy per class on unseen (U) and on seen classes (S), their harmonic mean (H), and accuracy
    per class on unseen classes when these alone are candidates (T1).

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
      seen_predictions: classes predicted for images of seen classes, among all classes.
      seen_labels: their true classes.
      unseen_predictions: classes predicted for images of unseen classes, among all classes.
      unseen_labels: their true classes.
      zsl_predictions: classes predicted for the same images, among the unseen classes alone.

    Source: Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation", arXiv 1707.00600.
    """
    unseen = per_class_accuracy(unseen_predictions, unseen_labels)
    seen = per_class_accuracy(seen_predictions, seen_labels)
    return {
        "U": unseen,
        "S": seen,
        "H": harmonic_mean(unseen, seen),
        "T1": per_class_accuracy(zsl_predictions, unseen_labels),
    }
