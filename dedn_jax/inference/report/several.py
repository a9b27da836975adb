"""The page of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dedn_jax.inference.html import document, label, text
from dedn_jax.inference.report.analysis import Analysis
from dedn_jax.inference.report.facts import Facts
from dedn_jax.inference.report.page import (
    SCRIPT,
    STYLE,
    figure,
    metric_cells,
    metric_heads,
    run_body,
)
from dedn_jax.inference.report.samples import Sample


class Reported(NamedTuple):
    """What `run_page` takes, of one run."""

    facts: Facts
    analysis: Analysis
    figures: Mapping[str, str]
    samples: Sequence[Sample]


def several_page(
    title: str,
    runs: Mapping[str, Reported],
    figures: Mapping[str, str],
) -> str:
    """One table and one figure for all runs, classes side by side, then each run whole.

    Args:
      title: of the page.
      runs: by their names, what `run_page` takes.
      figures: with all runs in them: `curve` and `learning`, where there is something to draw.
    """
    sections = [f"<h1>{text(title)}</h1>", _same_data(runs), _table(runs)]
    if "curve" in figures:
        caption = "For every gamma; the marked points are those of the gamma that is reported."
        sections.append(
            "<section><h2>Seen against unseen</h2>"
            + figure(figures["curve"], "Curves of accuracy on seen over unseen classes.", caption)
            + "</section>"
        )
    if "learning" in figures:
        caption = (
            "Left: the fused score on what each run was selected by. Right: phases before the last "
            "are paler."
        )
        sections.append(
            "<section><h2>While training</h2>"
            + figure(figures["learning"], "Evaluations and losses by step.", caption)
            + "</section>"
        )
    sections.append(_classes(runs))
    for name, run in runs.items():
        sections.append(
            f"<details><summary><b>{label(name)}</b></summary>{run_body(*run)}</details>"
        )
    return document(title, "\n".join(sections), STYLE, SCRIPT)


def result_rows(name: str, analysis: Analysis) -> list[tuple[str, Mapping[str, float]]]:
    """What to call the results of a run's fused score, and the metrics."""
    result = analysis.result
    by_test = " (test-best)" if result["protocol"] == "test-best" else ""
    rows = [(f"{name}, {result['protocol']}, fixed{by_test}", result["test"]["fused"])]
    if calibrated := result.get("test_calibrated"):
        rows.append((f"{name}, {result['protocol']}, calibrated", calibrated["fused"]))
    return rows


def _same_data(runs: Mapping[str, Reported]) -> str:
    splits = {
        tuple(facts.fingerprint.get(k) for k in ("labels", "splits", "class_embeddings"))
        for facts in (run.facts for run in runs.values())
    }
    if len(splits) == 1:
        return '<p class="note">All runs have the same classes, labels and splits.</p>'
    return (
        '<p class="note"><b>The runs are on different data: their numbers cannot be compared '
        "directly.</b></p>"
    )


def _table(runs: Mapping[str, Reported]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{label(row)}</th>{metric_cells(metrics)}</tr>'
        for name, run in runs.items()
        for row, metrics in result_rows(name, run.analysis)
    )
    return (
        "<section><h2>Results on the test sets, fused score</h2>"
        '<div class="wide"><table class="sortable"><thead><tr><th scope="col">run</th>'
        f"{metric_heads()}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _classes(runs: Mapping[str, Reported]) -> str:
    by_class: dict[tuple[str, bool], dict[str, float]] = {}
    for name, run in runs.items():
        for c in run.analysis.classes:
            by_class.setdefault((c.name, c.seen), {})[name] = c.reported
    heads = "".join(f'<th scope="col" class="number">{label(name)}</th>' for name in runs)
    rows = ""
    for (name, seen), accuracy in by_class.items():
        cells = "".join(
            f'<td class="number">{accuracy[run]:.1f}</td>' if run in accuracy else "<td></td>"
            for run in runs
        )
        rows += (
            f'<tr><th scope="row">{label(name)}</th><td class="kind">'
            f"{'seen' if seen else 'unseen'}</td>{cells}</tr>"
        )
    return (
        "<section><h2>Classes</h2>"
        '<p class="note">Accuracy in percent of the fused score, calibrated where a run is. Click '
        "on a column's head to sort.</p>"
        '<div class="wide"><table class="sortable"><thead><tr><th scope="col">class</th>'
        f'<th scope="col">kind</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )
