"""The seen-unseen curve of calibrated stacking: U and S for every bias, their best H, and AUSUC.

Source: Chao et al., "An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object
Recognition in the Wild", arXiv 1605.04253; accuracy per class, averaged over classes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class SeenUnseenCurve:
    """U and S as functions of gamma, the bias that unseen classes are given.

    Both are step functions: they change where gamma passes the gap of an image, its best score
    among the seen minus that among the unseen classes. An unseen class is chosen where gamma is
    larger than the gap.

    Attributes:
      gaps: ascending gaps at which U or S changes; between `gaps[j - 1]` and `gaps[j]` they are
        `unseen[j]` and `seen[j]`.
      unseen, seen: U and S in percent, from gamma = -inf to inf.
    """

    gaps: Float[np.ndarray, " changes"]
    unseen: Float[np.ndarray, " changes+1"]
    seen: Float[np.ndarray, " changes+1"]

    @property
    def harmonic_mean(self) -> Float[np.ndarray, " changes+1"]:
        """H in percent of every point."""
        total = self.unseen + self.seen
        return 2.0 * self.unseen * self.seen / np.where(total > 0, total, 1.0)

    @property
    def area(self) -> float:
        """AUSUC, from 0 to 1: the area under S over U, with straight lines between the points."""
        area = float(np.trapezoid(self.seen, self.unseen)) / 1e4
        return min(area, 1.0)  # sums of shares may exceed the whole by rounding

    def best(self, near: float) -> tuple[float, float]:
        """The gamma of the best H, and that H in percent.

        H is constant between two gaps: of such an interval the middle is taken, of several with the
        same H the one whose middle is nearest to `near`. Without any H above 0, `near` and 0.
        """
        h = self.harmonic_mean
        best = float(h.max())
        if best == 0:
            return near, 0.0
        # U is 0 before the first gap, S after the last: the best is between two.
        places = np.flatnonzero(h > best - 1e-9)  # sums that differ by rounding are the same
        middles = 0.5 * (self.gaps[places - 1] + self.gaps[places])
        return float(middles[np.argmin(np.abs(middles - near))]), best


def seen_unseen_curve(
    gap: Float[np.ndarray, " images"],
    right: Bool[np.ndarray, " images"],
    labels: Int[np.ndarray, " images"],
    unseen: Bool[np.ndarray, " images"],
) -> SeenUnseenCurve:
    """The curve, exactly: the gaps are sorted, no bias is tried.

    >>> curve = seen_unseen_curve(
    ...     gap=np.array([1.0, 3.0, 2.0]),
    ...     right=np.array([True, True, True]),
    ...     labels=np.array([0, 1, 2]),
    ...     unseen=np.array([False, False, True]),
    ... )
    >>> curve.unseen.tolist(), curve.seen.tolist(), curve.area
    ([0.0, 0.0, 100.0, 100.0], [100.0, 50.0, 50.0, 0.0], 0.5)
    >>> gamma, h = curve.best(near=0.0)
    >>> gamma, round(h, 1)
    (2.5, 66.7)

    Args:
      gap: best score among the seen minus best among the unseen classes, without any bias.
      right: whether the best class of the image's own kind, seen or unseen, is its own.
      labels: class ids; at least one image of a seen and of an unseen class.
      unseen: whether that is an unseen class.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    num_unseen = len(np.unique(labels[unseen]))
    weight = 100.0 / counts[index]
    weight /= np.where(unseen, num_unseen, len(classes) - num_unseen)
    gap, weight, unseen = gap[right].astype(float), weight[right], unseen[right]
    gaps, place = np.unique(gap, return_inverse=True)
    gains = np.bincount(place[unseen], weight[unseen], len(gaps))
    losses = np.bincount(place[~unseen], weight[~unseen], len(gaps))
    # Sums of what is left rather than differences from the whole: exactly 0 at either end.
    return SeenUnseenCurve(
        gaps=gaps,
        unseen=np.concatenate([[0.0], np.cumsum(gains)]),
        seen=np.concatenate([np.cumsum(losses[::-1])[::-1], [0.0]]),
    )
