"""What a sweep reports: means with their confidence intervals, as numbers, table and plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from dedn_jax.figure_text import plain_text
from dedn_jax.files import write_atomically
from dedn_jax.sweep.choice import TEST, VALIDATION, choose, not_shown, tests_shown
from dedn_jax.training.evaluation import AUSUC, METRICS, Metrics

CONFIDENCE = 0.95
SHARED = (
    "batches and the validation split of all models are those of the first seed; the models differ "
    "in their initial parameters alone, and so do the deviations and intervals"
)
CALIBRATED = "  calibrated"
# Metrics that are drawn, with their colours and how far beside the point they stand.
_DRAWN = {"H": ("#2e4057", -0.12), "T1": ("#d98e04", 0.12)}
COLUMNS = (*METRICS, AUSUC)
_DPI = 110
_LINE = 36  # characters


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample deviation, and Student's 95 % interval of the mean; JSON-ready.

    Of a single value there is no deviation and no interval: None.
    """
    n, mean = len(values), float(np.mean(values))
    result: dict[str, Any] = {"mean": mean, "deviation": None, "interval": None}
    if n > 1:
        deviation = float(np.std(values, ddof=1))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
        result |= {"deviation": deviation, "interval": [mean - half, mean + half]}
    return result | {"values": [float(v) for v in values]}


def summaries(metrics: Sequence[Metrics | None]) -> dict[str, dict[str, Any]]:
    """`summary` of the fused score's U, S, H, T1 and AUSUC over models; of what was measured.

    Models that diverged have None, and are left out.
    """
    fused = [one["fused"] for one in metrics if one is not None]
    known = [m for m in COLUMNS if fused and all(m in one for one in fused)]
    return {m: summary([one[m] for one in fused]) for m in known}


def result_text(result: dict[str, Any], *, show_test: bool = False) -> str:
    """What a sweep prints at its end: validation of every point, test sets of the best.

    Args:
      result: the content of `result.json`.
      show_test: the test sets of every point.
    """
    points, best = result["points"], choose(result)
    shown = tests_shown(result, show_test)
    lines = []
    if any(VALIDATION[0] in point for point in points):
        marked = best.point if best else None
        lines += [_head("Validation classes", result), *_table(points, VALIDATION, marked), ""]
        if best:
            lines += [f"* {point_name(points[best.point])}: the best by {best.by}.", ""]
    if shown:
        what = "Test sets" + (" of that point" if len(shown) < len(points) else "")
        lines += [_head(what, result), *_table([points[i] for i in shown], TEST), ""]
    if text := not_shown(result, shown):
        lines += [f"{text}.", ""]
    labels = sorted({point["selected_by"] for point in points})
    lines += [f"Note: {result['shared']}.", f"Steps selected by {'; '.join(labels)}."]
    if any(kind in point for point in points for kind in (TEST[1], VALIDATION[1])):
        lines.append("Calibrated: gamma and mixes of every model chosen on validation classes.")
    if any(_diverged(point) for point in points):
        lines.append("Diverged models (loss, gradient or parameters not finite) are left out.")
    return "\n".join(lines)


def _head(what: str, result: dict[str, Any]) -> str:
    seeds = result["seeds"]
    return (
        f"{what}, fused score, percent (AUSUC from 0 to 1): mean ± half of the {CONFIDENCE:.0%} "
        f"interval of the mean, {len(seeds)} seeds ({seeds[0]} to {seeds[-1]})."
    )


def _table(
    points: Sequence[dict[str, Any]], kinds: tuple[str, str], marked: int | None = None
) -> list[str]:
    """Rows of summaries, those of calibrated numbers below; of the marked point with a star."""
    fixed, calibrated = kinds
    diverged = any(_diverged(point) for point in points)
    names = [point_name(p) + (" *" if i == marked else "") for i, p in enumerate(points)]
    width = max(map(len, [*names, "point", CALIBRATED]))
    head = f"{'point':<{width}}" + "".join(f"{m:>16}" for m in COLUMNS)
    lines = [head + (f"{'diverged':>16}" if diverged else "")]
    for name, point in zip(names, points, strict=True):
        last = f"{_diverged(point) or '-':>16}" if diverged else ""
        lines.append(f"{name:<{width}}{_cells(point.get(fixed, {}))}{last}")
        if calibrated in point:
            lines.append(f"{CALIBRATED:<{width}}{_cells(point[calibrated])}")
    return lines


@plain_text()
def draw(result: dict[str, Any], path: Path) -> None:
    """H and T1 of every point: means with intervals, and the single seeds as dots.

    On validation classes, where there are any, of what the best point is the best by; of a single
    point without them on the test sets.
    Diverged models are left out, and counted below their point.
    """
    points, best = result["points"], choose(result)
    single = len(points) == 1 and VALIDATION[0] not in points[0]
    kind, where = (TEST[0], "test sets") if single else (VALIDATION[0], "validation classes")
    if best:
        kind = best.kind
        where += ", calibrated" if kind == VALIDATION[1] else ""
    names = [point_lines(point_name(point)) for point in points]
    if best:
        names[best.point] += "\n* best"
    for i, point in enumerate(points):
        if some := _diverged(point):
            names[i] += f"\n{some} diverged"
    lines = max(name.count("\n") + 1 for name in names)
    turned = len(points) > 4 or max(map(len, names)) > 30
    # Lines of turned labels stand side by side.
    width = max(1.1, 0.3 * lines if turned else 0.0)
    size = max(5.0, 2.0 + width * len(points)), 4.2 + 0.13 * max(0, lines - 3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for metric, (color, offset) in _DRAWN.items():
        places, means, halves = [], [], []
        for i, point in enumerate(points):
            if (found := point.get(kind, {}).get(metric)) is None:
                continue
            x = i + offset
            places.append(x)
            means.append(found["mean"])
            halves.append(_half(found) or 0.0)
            spread = [x + 0.07] * len(found["values"])
            axes.scatter(spread, found["values"], s=9, color=color, alpha=0.45, linewidths=0)
        if places:
            axes.errorbar(
                places, means, halves, fmt="o", ms=5, capsize=4, color=color, label=metric
            )
            axes.legend(frameon=False)
    axes.set_xticks(
        range(len(points)),
        names,
        fontsize=8,
        rotation=30 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.set(
        xlim=(-0.5, len(points) - 0.5),
        ylabel="percent",
    )
    axes.set_title(
        f"Fused score on {where}\nmean and {CONFIDENCE:.0%} interval over "
        f"{len(result['seeds'])} seeds",
        fontsize=10,
    )
    axes.grid(alpha=0.25, axis="y")
    # Whole or not at all, as all results.
    png = BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    write_atomically(path, png.getvalue())


def point_name(point: Mapping[str, Any]) -> str:
    """What to call a point: its name, or the fields that the grid gives it."""
    fields = ", ".join(f"{k}={v}" for k, v in point["fields"].items())
    return point.get("name") or fields or "config"


def point_lines(name: str) -> str:
    """A point's name for a figure: a line for each field, long ones on several.

    >>> point_lines("loss.margin=2, optimizer.learning_rate=0.001")
    'loss.margin=2\\noptimizer.learning_rate=0.001'
    """
    parts = name.split(", ")
    wrapped = [
        line
        for part in parts
        for line in textwrap.wrap(part, _LINE, max_lines=3, placeholder="…") or [part]
    ]
    return "\n".join(wrapped)


def _diverged(point: dict[str, Any]) -> str:
    """How many models of how many, "" for none."""
    diverged_at = point["diverged_at"]
    some = len(diverged_at) - diverged_at.count(None)
    return f"{some} of {len(diverged_at)}" if some else ""


def _half(found: dict[str, Any]) -> float | None:
    return found["interval"][1] - found["mean"] if found["interval"] else None


def _cells(summaries: dict[str, Any]) -> str:
    return "".join(f"{cell(summaries.get(m), m):>16}" for m in COLUMNS)


def cell(found: dict[str, Any] | None, metric: str) -> str:
    """A summary of a metric as text: the mean ± half of its interval."""
    if found is None:
        return "-"
    digits = 3 if metric == AUSUC else 1
    half = _half(found)
    return f"{found['mean']:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")
