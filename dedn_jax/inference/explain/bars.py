"""What an explanation shows of its numbers: bars of the leading attributes, and the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from dedn_jax.inference.explain.decomposition import BRANCHES, CHANNEL, EXPERTS, Decomposition
from dedn_jax.inference.explain.explanation import Explanation

# Of Okabe and Ito's colours for colour-blind readers: blues for the coarse expert, oranges for the
# fine one, the darker of each for the region branch.
SEGMENTS = {
    "coarse, region": "#0072b2",
    "coarse, channel": "#56b4e9",
    "fine, region": "#d55e00",
    "fine, channel": "#e69f00",
}
assert tuple(SEGMENTS) == tuple(f"{e}, {b}" for e in EXPERTS for b in BRANCHES)

_NOTHING = 1e-8  # what rounding leaves of a score


class Bar(NamedTuple):
    """One line of a chart.

    Attributes:
      label: such as an attribute's name.
      segments: what adds up to the line's value, in the order of `SEGMENTS`.
    """

    label: str
    segments: Float64[np.ndarray, " segments"]

    @property
    def value(self) -> float:
        return float(self.segments.sum())

    @property
    def ends(self) -> tuple[float, float]:
        """Where the stacked segments end: negative ones to the left, positive ones to the right."""
        negative = self.segments[self.segments < 0].sum()
        return float(negative), float(self.segments[self.segments > 0].sum())

    def boxes(self) -> list[tuple[str, float, float]]:
        """Segment, start and length of every box that is drawn; lengths are positive."""
        left, right, found = 0.0, 0.0, []
        for name, value in zip(SEGMENTS, self.segments.tolist(), strict=True):
            if value < 0:
                left += value
                found.append((name, left, -value))
            elif value > 0:
                found.append((name, right, value))
                right += value
        return found


def bars(decomposition: Decomposition, names: Sequence[str], top: int) -> list[Bar]:
    """A bar for each of the leading attributes that add anything; one at least.

    Args:
      decomposition: of a score or of a difference.
      names: of the attributes.
      top: how many at most.
    """
    segments = decomposition.parts.reshape(len(SEGMENTS), -1)
    return [Bar(names[a], segments[:, a]) for a in _leading(decomposition, top)]


def rest(decomposition: Decomposition, top: int) -> list[tuple[str, float]]:
    """What makes the total of the bars: all other attributes, gamma if it is not 0, the total.

    They are not drawn: sums over hundreds of attributes would leave no room for the leading ones.
    """
    found = []
    leading = _leading(decomposition, top)
    if others := len(decomposition.by_attribute) - len(leading):
        label = f"{others} other attributes" if others > 1 else "1 other attribute"
        left = decomposition.by_attribute.sum() - decomposition.by_attribute[leading].sum()
        found.append((label, float(left)))
    if decomposition.gamma:
        found.append(("gamma, of unseen classes", decomposition.gamma))
    return [*found, ("total", decomposition.total)]


def span(lines: Sequence[Bar]) -> tuple[float, float]:
    """The axis that holds all bars: least and greatest end, 0 within."""
    ends = [bar.ends for bar in lines]
    return min(left for left, _ in ends), max(right for _, right in ends)


def shown_attributes(explanation: Explanation, top: int) -> list[int]:
    """Attributes whose attention is drawn: those leading in the score, then in the difference.

    Those that add nothing are left out, as of `bars`.
    """
    found = _leading(explanation.score, top)
    if (difference := explanation.difference) is not None:
        found += [a for a in _leading(difference, top) if _adds(difference.by_attribute[a])]
    return list(dict.fromkeys(found))


def part_text(explanation: Explanation, attribute: int) -> str:
    """What an attribute adds to the score and to the difference."""
    text = f"{signed(float(explanation.score.by_attribute[attribute]))} of the score"
    if explanation.difference is None:
        return text
    return (
        f"{text}, {signed(float(explanation.difference.by_attribute[attribute]))} of the difference"
    )


def leading_channels(explanation: Explanation, top: int) -> list[list[Bar]]:
    """For each expert, a bar for each of the channels with the largest shares of the score.

    Those that have none are left out, but for one.
    """
    shares = explanation.score.channels(explanation.channel_attention)
    found = []
    for e, row in enumerate(shares):
        segment = np.eye(len(SEGMENTS))[e * len(BRANCHES) + CHANNEL]
        leading = _adding(np.argsort(-np.abs(row), kind="stable")[:top].tolist(), row)
        found.append([Bar(f"channel {c}", row[c] * segment) for c in leading])
    return found


def signed(value: float) -> str:
    """With its sign, and two significant digits or three after the point: `+1.250`, `−0.00042`."""
    if not _adds(value):
        return "0"
    decimals = max(3, 1 - math.floor(math.log10(abs(value))))
    return f"{value:+.{decimals}f}".replace("-", "−")


def _leading(decomposition: Decomposition, top: int) -> list[int]:
    """The leading attributes, without those that add nothing, as many do where attributes are 0
    or 1."""
    return _adding(decomposition.leading(top).tolist(), decomposition.by_attribute)


def _adding(leading: list[int], parts: Float64[np.ndarray, " parts"]) -> list[int]:
    """Those that add anything; the first where none does."""
    return [i for i in leading if _adds(parts[i])] or leading[:1]


def _adds(value: float) -> bool:
    return abs(value) >= _NOTHING
