"""The page of a sweep: every point of its grid, fixed beside calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dedn_jax.inference.html import document, label, text
from dedn_jax.inference.report.figures import draw_points
from dedn_jax.inference.report.page import SCRIPT, STYLE, figure, json_details, metric_heads
from dedn_jax.sweep.report import COLUMNS, CONFIDENCE, cell, point_name

_KINDS = {"fused": "fixed", "fused_calibrated": "calibrated"}


def sweep_page(title: str, result: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
      title: of the page.
      result: the content of the sweep's `result.json`.
      facts: what is shown at the end, as JSON, by its title.
    """
    points, seeds = result["points"], result["seeds"]
    names = [point_name(point) for point in points]
    series = {
        way: [point.get(kind, {}).get("H") for point in points] for kind, way in _KINDS.items()
    }
    series = {way: found for way, found in series.items() if any(found)}
    drawing = series and figure(
        draw_points(names, series),
        "H of every point of the grid: " + "; ".join(_described(names, series)),
        f"Mean and {CONFIDENCE:.0%} interval of the mean over the seeds, and every seed as a dot.",
    )
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p class="note">{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}; '
        f"{text(result['shared'])}. Selected by "
        f"{text('; '.join(sorted({p['selected_by'] for p in points})))}.</p>",
        f"<section><h2>H on the test sets</h2>{drawing}</section>" if series else "",
        "<section><h2>Results on the test sets, fused score</h2>"
        f'<p class="note">Mean ± half of the {CONFIDENCE:.0%} interval of the mean. Calibrated: '
        "gamma and mixes of every model chosen on validation classes. Models that diverged are "
        "left out.</p>"
        f'<div class="wide">{_table(names, points)}</div></section>',
        f"<section><h2>To repeat it</h2>{json_details(facts)}</section>",
    ]
    return document(title, "\n".join(body), STYLE, SCRIPT)


def sweep_rows(result: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Points of the grid and the means of their metrics, fixed and calibrated."""
    return [
        (f"{point_name(point)}, {way}", {m: s["mean"] for m, s in point[kind].items()})
        for point in result["points"]
        for kind, way in _KINDS.items()
        if kind in point
    ]


def _described(names: Sequence[str], series: Mapping[str, Sequence[Any]]) -> list[str]:
    return [
        f"{name}, {way}: {found['mean']:.1f}"
        for way, summaries in series.items()
        for name, found in zip(names, summaries, strict=True)
        if found
    ]


def _table(names: Sequence[str], points: Sequence[Mapping[str, Any]]) -> str:
    rows = ""
    for name, point in zip(names, points, strict=True):
        diverged = [at is not None for at in point["diverged_at"]]
        for kind, way in _KINDS.items():
            if kind in point:
                cells = "".join(
                    f'<td class="number">{cell(point[kind].get(m), m)}</td>' for m in COLUMNS
                )
                rows += (
                    f'<tr><th scope="row">{label(name)}</th><td class="kind">{way}</td>{cells}'
                    f'<td class="number">{sum(diverged)} of {len(diverged)}</td></tr>'
                )
    return (
        '<table class="sortable"><thead><tr><th scope="col">point</th><th scope="col">bias and '
        f'mixes</th>{metric_heads()}<th scope="col" class="number">diverged</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
