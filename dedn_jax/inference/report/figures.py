"""Figures of a report, as SVG whose text is text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dedn_jax.figure_text import plain_text
from dedn_jax.sweep.report import point_lines
from dedn_jax.training.evaluation import AUSUC
from dedn_jax.training.seen_unseen import SeenUnseenCurve

# Okabe and Ito: told apart by colour-blind readers; lines differ in their dashes as well.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
)
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
_METRIC_COLOURS = {"H": BLUE, "U": VERMILLION, "S": GREEN}
_SCALES = {AUSUC: 100.0}  # to percent; the others are
_GREY = "#555555"
_STYLE: Any = {  # typed by matplotlib with a list of all its settings
    "svg.fonttype": "none",
    "svg.hashsalt": "dedn",  # the same figure has the same bytes
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


class CurvePoint(NamedTuple):
    """A point that is marked on a curve."""

    unseen: float
    seen: float
    text: str


class Curve(NamedTuple):
    """A seen-unseen curve with the points to mark on it."""

    name: str
    curve: SeenUnseenCurve
    points: Sequence[CurvePoint]


class Learning(NamedTuple):
    """The evaluations and losses of one run.

    Attributes:
      name: of the run.
      label: which images were evaluated on.
      evaluations: records of `metrics.jsonl` with the metrics of the fused score.
      losses: by phase, steps and losses.
      selected: the selected step.
      metric: by which it was, among the keys of the metrics.
    """

    name: str
    label: str
    evaluations: Sequence[Mapping[str, Any]]
    losses: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    selected: int | None
    metric: str = "H"


def draw_seen_unseen(curves: Sequence[Curve]) -> str:
    """S over U for every gamma, with the points of the chosen and of the fixed gamma."""
    with plain_text(_STYLE):
        figure = Figure(figsize=(8.6, 4.3), layout="constrained")
        axes = figure.subplots()
        for h in (20, 40, 60, 80):
            u = np.linspace(h / 2 + 1e-6, 100, 200)
            s = h * u / (2 * u - h)
            axes.plot(u[s <= 100], s[s <= 100], color="#d0d0d0", linewidth=0.8, zorder=1)
            axes.text(h, h, f"H {h}", color="#767676", fontsize=8, ha="center", va="center")
        for i, (name, curve, points) in enumerate(curves):
            colour = SERIES[i % len(SERIES)]
            axes.plot(
                curve.unseen,
                curve.seen,
                color=colour,
                linestyle=DASHES[i % len(DASHES)],
                linewidth=2,
                clip_on=False,  # lines at 0 and 100 lie on the edge
                label=_label(f"{name}: AUSUC {curve.area:.3f}"),
            )
            for marker, point in zip("osD^", points, strict=False):
                axes.plot(
                    point.unseen,
                    point.seen,
                    marker,
                    color=colour,
                    markersize=9,
                    markeredgecolor="white",
                    clip_on=False,
                    label=_label(point.text),
                )
        axes.set(
            xlim=(0, 100),
            ylim=(0, 100),
            xlabel="U, accuracy on unseen classes, percent",
            ylabel="S, accuracy on seen classes, percent",
        )
        axes.set_aspect("equal")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        return _svg(figure)


def draw_learning(runs: Sequence[Learning]) -> str:
    """Evaluations while training, and the losses of every phase, side by side."""
    with plain_text(_STYLE):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        several = len(runs) > 1
        metrics = {run.metric for run in runs if run.evaluations}
        drawn = metrics if len(metrics) == 1 else {"H"}
        for i, run in enumerate(runs):
            # Of several runs the metric that selected: H where they differ in it.
            for metric in drawn if several else dict.fromkeys((*_METRIC_COLOURS, run.metric)):
                points = [
                    (r["step"], r["fused"][metric] * _SCALES.get(metric, 1))
                    for r in run.evaluations
                    if metric in r["fused"]
                ]
                if not points:
                    continue
                leads = metric == run.metric
                left.plot(
                    *zip(*points, strict=True),
                    color=SERIES[i % len(SERIES)]
                    if several
                    else _METRIC_COLOURS.get(metric, PURPLE),
                    linestyle=DASHES[i % len(DASHES)] if several else DASHES[0 if leads else 1],
                    linewidth=2 if leads else 1.4,
                    label=f"{run.label.split(' (')[0]}, {run.name}" if several else _named(metric),
                )
            if run.selected is not None and run.evaluations:
                left.axvline(
                    run.selected,
                    color=SERIES[i % len(SERIES)] if several else _GREY,
                    linewidth=1,
                    linestyle=":",
                    label=None if several else f"selected: step {run.selected}",
                )
            for j, (phase, (steps, losses)) in enumerate(run.losses.items()):
                n = i if several else j
                right.plot(
                    steps,
                    losses,
                    color=SERIES[n % len(SERIES)],
                    linestyle=DASHES[n % len(DASHES)],
                    linewidth=1.4,
                    # Of several runs, phases before the last are paler.
                    alpha=0.45 if several and j < len(run.losses) - 1 else 1.0,
                    label=f"{phase}, {run.name}" if several else phase,
                )
        labels = [run.label.split(" (")[0] for run in runs if run.evaluations]
        title = f"Fused score on {labels[0]}" if labels else "Nothing was evaluated"
        if len(set(labels)) > 1:
            title = "Fused score on what selected the step"
        of = f"{_named(*drawn)}, " if several else ""
        left.set(xlabel="step", ylabel=f"{of}percent", ylim=(0, 100))
        left.set_title(title, fontsize=11, loc="left")
        right.set(xlabel="step", ylabel="loss")
        right.set_title("Training loss, by phase", fontsize=11, loc="left")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best", fontsize=8)
        return _svg(figure)


def draw_points(
    names: Sequence[str],
    series: Mapping[str, Sequence[Mapping[str, Any] | None]],
    where: str,
) -> str:
    """Means of H with their intervals for every point of a sweep, and single seeds as dots.

    Args:
      names: of the points.
      series: summaries (`sweep.report.summary`) of every point, by what they are of.
      where: on which images.
    """
    with plain_text(_STYLE):
        below = [point_lines(name) for name in names]
        lines = max([2, *(name.count("\n") + 1 for name in below)])
        height = 1.3 + (0.26 + 0.18 * lines) * len(names)
        figure = Figure(figsize=(7.6, height), layout="constrained")
        axes = figure.subplots()
        for i, (label, summaries) in enumerate(series.items()):
            first = next((row for row, found in enumerate(summaries) if found), None)
            for row, found in enumerate(summaries):
                if found is None:
                    continue
                y = row + 0.16 * (2 * i - len(series) + 1)
                interval = found["interval"] or [found["mean"], found["mean"]]
                axes.plot(interval, [y, y], color=SERIES[i], linewidth=2)
                axes.plot(
                    found["values"], [y] * len(found["values"]), ".", color=SERIES[i], alpha=0.5
                )
                axes.plot(
                    found["mean"],
                    y,
                    "os"[i % 2],
                    color=SERIES[i],
                    markersize=8,
                    markeredgecolor="white",
                    label=_label(label) if row == first else None,
                )
        axes.set_yticks(range(len(names)), below, fontsize=9)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel=f"H on {where}, percent")
        axes.grid(visible=False, axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=9)
        return _svg(figure)


def _named(metric: str) -> str:
    """A metric beside percentages."""
    return f"{metric} x 100" if metric in _SCALES else metric


def _label(text: str) -> str:
    """Matplotlib leaves what begins with an underscore out of a legend."""
    return f" {text}" if text.startswith("_") else text


def _svg(figure: Figure) -> str:
    """The `<svg>` element alone, scaled to the room there is."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    start = text.index("<svg")
    head, rest = text[start:].split(">", 1)
    parts = [p for p in head.split() if not p.startswith(("width=", "height="))]
    return " ".join(parts) + ">" + rest.rstrip()
