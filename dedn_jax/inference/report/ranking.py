"""How well scores rank what has a property above what has not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def average_precision(
    scores: Float[np.ndarray, "images columns"], positive: Bool[np.ndarray, "images columns"]
) -> Float[np.ndarray, " columns"]:
    """Mean over the positives of the precision at their score; images of equal score together.

    >>> average_precision(np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [True]]))
    array([0.83333333])

    Args:
      scores: each column ranks the images, the highest first.
      positive: what should be first.

    Returns:
      From 0 to 1; NaN for columns that are all positive or all negative.
    """
    found = np.full(scores.shape[1], np.nan)
    for column in np.flatnonzero(positive.any(0) & ~positive.all(0)):
        s, p = scores[:, column], positive[:, column]
        order = np.argsort(-s, kind="stable")
        s, p = s[order], p[order]
        last = np.append(s[1:] != s[:-1], True)  # of the images of each score
        hits = np.cumsum(p)[last]
        precision = hits / (np.flatnonzero(last) + 1)
        found[column] = np.sum(np.diff(hits, prepend=0) * precision) / p.sum()
    return found


def roc_auc(
    scores: Float[np.ndarray, "images columns"], positive: Bool[np.ndarray, "images columns"]
) -> Float[np.ndarray, " columns"]:
    """Share of pairs of a positive and a negative that are ranked rightly; equal ones count half.

    >>> roc_auc(np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [True]]))
    array([0.5])

    Args:
      scores, positive: as for `average_precision`.

    Returns:
      From 0 to 1; NaN for columns that are all positive or all negative.
    """
    from scipy.stats import rankdata  # here: it takes a third of a second to import

    positives = positive.sum(0)
    negatives = len(positive) - positives
    ranks = np.where(positive, rankdata(scores, axis=0), 0).sum(0)
    pairs = (positives * negatives).astype(float)
    pairs[pairs == 0] = np.nan
    return (ranks - positives * (positives + 1) / 2) / pairs
