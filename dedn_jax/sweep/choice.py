"""Which point of a sweep is the best, by validation alone, and whose test sets are shown.

A grid is there to choose from. Whoever chooses by the test sets has none left, so that they are
shown of the point that validation chooses, and of others only where that is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dedn_jax.training.selection import METRIC_KEYS

# Summaries of the fused score in a point's result: at the fixed bias and mixes, and calibrated.
TEST = ("fused", "fused_calibrated")
VALIDATION = ("validation_fused", "validation_fused_calibrated")


class Choice(NamedTuple):
    """The best point.

    Attributes:
      point: its number, from 0.
      kind: the summaries that it is the best by: one of `VALIDATION`.
      by: the same in words.
    """

    point: int
    kind: str
    by: str


def choose(result: Mapping[str, Any]) -> Choice | None:
    """The point with the best mean of `config.selection.metric` on validation classes.

    Calibrated where all that can be chosen are. A point of which models diverged is taken only
    where there is no other. None where a single point leaves no choice, or none has validation.

    Args:
      result: the content of the sweep's `result.json`.
    """
    points = result["points"]
    key = METRIC_KEYS[result.get("metric", "harmonic_mean")]
    fixed, calibrated = VALIDATION
    able = [i for i, point in enumerate(points) if key in point.get(fixed, {})]
    able = [i for i in able if not any(points[i]["diverged_at"])] or able
    if len(points) == 1 or not able:
        return None
    both = all(key in points[i].get(calibrated, {}) for i in able)
    kind = calibrated if both else fixed
    best = max(able, key=lambda i: points[i][kind][key]["mean"])
    return Choice(best, kind, f"{'calibrated ' if both else ''}{key} on validation classes")


def tests_shown(result: Mapping[str, Any], show_test: bool) -> list[int]:
    """The numbers of the points whose test sets are shown.

    Args:
      result: the content of the sweep's `result.json`.
      show_test: whether those of every point are asked for.
    """
    numbers = list(range(len(result["points"])))
    if show_test or len(numbers) == 1:
        return numbers
    best = choose(result)
    return [best.point] if best else []


def not_shown(result: Mapping[str, Any], shown: list[int]) -> str:
    """What is said of the test sets that are not shown; "" where all are."""
    left = len(result["points"]) - len(shown)
    if not left:
        return ""
    if shown:
        which = f"of the {left} other points are" if left > 1 else "of the other point are"
        return f"The test sets {which} not shown, since nothing may be chosen by them: --show-test"
    protocols = ", ".join(sorted({str(point.get("protocol")) for point in result["points"]}))
    return (
        f"No validation (protocol {protocols}), so no point can be chosen; the test sets of the "
        f"{left} points are not shown, since nothing may be chosen by them: --show-test"
    )
