"""The page of a sweep: every point of its grid on validation, and what is shown of test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dedn_jax.inference.html import document, label, text
from dedn_jax.inference.report.figures import draw_points
from dedn_jax.inference.report.page import SCRIPT, STYLE, figure, json_details, metric_heads
from dedn_jax.sweep.choice import (
    TEST,
    VALIDATION,
    Choice,
    choose,
    not_shown,
    tests_shown,
)
from dedn_jax.sweep.report import COLUMNS, CONFIDENCE, cell, point_name

_WAYS = ("fixed", "calibrated")


def sweep_page(
    title: str, result: Mapping[str, Any], facts: Mapping[str, Any], *, show_test: bool = False
) -> str:
    """The whole page: validation of every point, test sets of the best.

    Args:
      title: of the page.
      result: the content of the sweep's `result.json`.
      facts: what is shown at the end, as JSON, by its title.
      show_test: the test sets of every point.
    """
    points, seeds, best = result["points"], result["seeds"], choose(result)
    shown = tests_shown(result, show_test)
    steps = "; ".join(sorted({point["selected_by"] for point in points}))
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p class="note">{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}; '
        f"{text(result['shared'])}. Steps selected by {text(steps)}.</p>",
    ]
    if any(VALIDATION[0] in point for point in points):
        body += _sections("validation classes", points, VALIDATION, best)
    if shown:
        body += _sections("the test sets", [points[i] for i in shown], TEST, None)
    if left := not_shown(result, shown):
        body.append(f'<p class="note">{text(left)}</p>')
    body.append(f"<section><h2>To repeat it</h2>{json_details(facts)}</section>")
    return document(title, "\n".join(body), STYLE, SCRIPT)


def sweep_rows(
    result: Mapping[str, Any], *, show_test: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """Points and the means of their metrics with intervals on the test sets, fixed and calibrated.

    Of the points that `tests_shown` gives; on validation classes where it gives none. Where all
    models of a point diverged it has no metrics.
    """
    shown, kinds, _ = _in_table(result, show_test)
    return [
        (
            f"{point_name(point)}, {way}, {_seeds(point)}",
            {m: cell(found, m) for m, found in point[kind].items()},
        )
        for point in (result["points"][i] for i in shown)
        for kind, way in zip(kinds, _WAYS, strict=True)
        if kind in point
    ]


def rows_note(result: Mapping[str, Any], *, show_test: bool = False) -> str:
    """What the numbers of `sweep_rows` are."""
    shown, _, where = _in_table(result, show_test)
    over = f"mean ± half of the {CONFIDENCE:.0%} interval of the mean over the seeds"
    several = len(result["seeds"]) > 1
    diverged = any(at is not None for i in shown for at in result["points"][i]["diverged_at"])
    left = "; seeds whose models diverged are left out" if diverged else ""
    return f"Fused score on {where}{f', {over}' if several else ''}{left}."


def _in_table(
    result: Mapping[str, Any], show_test: bool
) -> tuple[Sequence[int], tuple[str, str], str]:
    """Positions of the points in `table.tex`, which of their metrics, and on what these are."""
    if shown := tests_shown(result, show_test):
        return shown, TEST, "the test sets"
    return range(len(result["points"])), VALIDATION, "validation classes"


def _seeds(point: Mapping[str, Any]) -> str:
    """How many seeds a mean is over."""
    diverged_at = point["diverged_at"]
    trained = diverged_at.count(None)
    of = "" if trained == len(diverged_at) else f"{trained} of "
    return f"{of}{len(diverged_at)} {'seed' if len(diverged_at) == 1 else 'seeds'}"


def _sections(
    where: str,
    points: Sequence[Mapping[str, Any]],
    kinds: tuple[str, str],
    best: Choice | None,
) -> list[str]:
    """A figure and a table of some points, fixed beside calibrated."""
    names = [point_name(point) for point in points]
    if best:
        names[best.point] += " *"
    found = {
        way: [point.get(kind, {}).get("H") for point in points]
        for kind, way in zip(kinds, _WAYS, strict=True)
    }
    series = {way: summaries for way, summaries in found.items() if any(summaries)}
    sections = []
    if series:
        drawing = figure(
            draw_points(names, series, where),
            f"H on {where}: " + "; ".join(_described(names, series)),
            f"Mean and {CONFIDENCE:.0%} interval of the mean over the seeds, and every seed as a "
            "dot.",
        )
        sections.append(f"<section><h2>H on {where}</h2>{drawing}</section>")
    star = f" * The best by {text(best.by)}." if best else ""
    sections.append(
        f"<section><h2>Results on {where}, fused score</h2>"
        f'<p class="note">Mean ± half of the {CONFIDENCE:.0%} interval of the mean. Calibrated: '
        "gamma and mixes of every model chosen on validation classes. Models that diverged are "
        f'left out.{star}</p><div class="wide">{_table(names, points, kinds)}</div></section>'
    )
    return sections


def _described(names: Sequence[str], series: Mapping[str, Sequence[Any]]) -> list[str]:
    return [
        f"{name}, {way}: {found['mean']:.1f}"
        for way, summaries in series.items()
        for name, found in zip(names, summaries, strict=True)
        if found
    ]


def _table(
    names: Sequence[str], points: Sequence[Mapping[str, Any]], kinds: tuple[str, str]
) -> str:
    rows = ""
    for name, point in zip(names, points, strict=True):
        diverged = [at is not None for at in point["diverged_at"]]
        for kind, way in zip(kinds, _WAYS, strict=True):
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
