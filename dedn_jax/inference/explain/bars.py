"""What the bars of an explanation show: the leading attributes, all others, gamma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from dedn_jax.inference.explain.decomposition import BRANCHES, EXPERTS, Decomposition
from dedn_jax.inference.explain.explanation import Explanation

# Of Okabe and Ito's colours for colour-blind readers: blues for the coarse expert, oranges for the
# fine one, the darker of each for the region branch; grey for gamma.
SEGMENTS = {
    "coarse, region": "#0072b2",
    "coarse, channel": "#56b4e9",
    "fine, region": "#d55e00",
    "fine, channel": "#e69f00",
    "gamma": "#666666",
}
assert tuple(SEGMENTS)[:-1] == tuple(f"{e}, {b}" for e in EXPERTS for b in BRANCHES)


class Bar(NamedTuple):
    """One line of a chart.

    Attributes:
      label: an attribute's name, or what else adds to the score.
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
    """The leading attributes, then all others, then gamma if it is not 0; they add up to the total.

    Args:
      decomposition: of a score or of a difference.
      names: of the attributes.
      top: how many attributes have a line of their own.
    """
    flat = decomposition.parts.reshape(-1, decomposition.parts.shape[-1])
    leading = decomposition.leading(top)
    found = [Bar(names[a], np.append(flat[:, a], 0.0)) for a in leading.tolist()]
    if others := flat.shape[1] - len(leading):
        label = f"{others} other attributes" if others > 1 else "1 other attribute"
        left = flat.sum(1) - flat[:, leading].sum(1)
        found.append(Bar(label, np.append(left, 0.0)))
    if decomposition.gamma:
        only = np.zeros(len(SEGMENTS))
        only[-1] = decomposition.gamma
        found.append(Bar("gamma, of unseen classes", only))
    return found


def span(lines: Sequence[Bar]) -> tuple[float, float]:
    """The axis that holds all bars: least and greatest end, 0 within."""
    ends = [bar.ends for bar in lines]
    return min(left for left, _ in ends), max(right for _, right in ends)


def shown_attributes(explanation: Explanation, top: int) -> list[int]:
    """Attributes whose attention is drawn: those leading in the score, then in the difference."""
    found = explanation.score.leading(top).tolist()
    if explanation.difference is not None:
        found += explanation.difference.leading(top).tolist()
    return list(dict.fromkeys(found))


def part_text(explanation: Explanation, attribute: int) -> str:
    """What an attribute adds to the score and to the difference."""
    text = f"{signed(float(explanation.score.by_attribute[attribute]))} of the score"
    if explanation.difference is None:
        return text
    return (
        f"{text}, {signed(float(explanation.difference.by_attribute[attribute]))} of the difference"
    )


def leading_channels(
    explanation: Explanation, top: int
) -> list[tuple[str, list[tuple[int, float]]]]:
    """For each expert its channels with the largest share of the score, and the shares."""
    shares = explanation.score.channels(explanation.channel_attention)
    return [
        (
            expert,
            [(c, float(row[c])) for c in np.argsort(-np.abs(row), kind="stable")[:top].tolist()],
        )
        for expert, row in zip(EXPERTS, shares, strict=True)
    ]


def signed(value: float) -> str:
    """With its sign, three digits after the point, as `+0.250` and `−0.250`."""
    return f"{value:+.3f}".replace("-", "−")
