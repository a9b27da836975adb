"""The page of one run's report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dedn_jax.inference.html import data_uri, document, label, text
from dedn_jax.inference.report.analysis import Analysis
from dedn_jax.inference.report.facts import Facts
from dedn_jax.inference.report.samples import Sample
from dedn_jax.inference.report.sections import (
    attributes_section,
    classes_section,
    confusions_section,
    disagreement_section,
)
from dedn_jax.training.evaluation import AUSUC, EXPERTS, METRICS, Metrics

_COLUMNS = (*METRICS, AUSUC)
STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .8rem;
  margin: 1rem 0; padding: 0; }
.tiles div { border: 1px solid #e5e5e5; border-radius: 6px; padding: .5rem .8rem; }
.tiles dt { color: #555; font-size: .85rem; } .tiles dd { margin: 0; font-size: 1.6rem;
  font-variant-numeric: tabular-nums; } .tiles .first { border-color: #0072B2; border-width: 2px; }
.wide { overflow-x: auto; } .wide table { min-width: 34rem; }
figure svg { width: 100%; min-width: 32rem; height: auto; display: block; }
figure { margin: .6rem 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1.5rem; }
thead th.number { text-align: right; } th.number { text-align: right; padding-right: .6rem; }
td, th { padding-right: 1rem; overflow-wrap: break-word; } thead th { white-space: nowrap; }
tbody th { overflow-wrap: anywhere; min-width: 9rem; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid #0072B2; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.kind { font-size: .85rem; color: #555; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr));
  gap: .8rem; }
.samples figure { margin: 0; font-size: .8rem; line-height: 1.3; }
.samples img { width: 100%; height: auto; display: block; border-radius: 4px;
  border-bottom: 4px solid; }
.right img { border-color: #0072B2; } .wrong img { border-color: #D55E00; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
pre { white-space: pre-wrap; font-size: .8rem; background: #f6f6f6; padding: .8rem;
  border-radius: 6px; }
@media print { details > * { display: block; } }
"""
# Tables are whole without it; it lets their columns be sorted.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes); head.append(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => { const t = row.cells[column].textContent; const n = parseFloat(t);
        return Number.isNaN(n) ? t : n; };
      const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
        return (typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0)
          : typeof x === "number" ? 1 : -1) * (up ? 1 : -1); });
      body.append(...rows);
    };
  });
}
"""


def run_page(
    facts: Facts, analysis: Analysis, figures: Mapping[str, str], samples: Sequence[Sample]
) -> str:
    """The whole page.

    Args:
      facts: of the run.
      analysis: its numbers.
      figures: `<svg>` elements: `curve` and `learning`, where there is something to draw.
      samples: test pictures, or none.
    """
    title = f"DEDN on {facts.dataset}"
    return document(
        title, f"<h1>{text(title)}</h1>{run_body(facts, analysis, figures, samples)}", STYLE, SCRIPT
    )


def run_body(
    facts: Facts, analysis: Analysis, figures: Mapping[str, str], samples: Sequence[Sample]
) -> str:
    """All sections; arguments as for `run_page`."""
    return "\n".join(
        [
            _head(facts, analysis),
            _results(analysis),
            _curve(figures, analysis),
            _learning(figures, analysis),
            classes_section(analysis),
            confusions_section(analysis),
            disagreement_section(analysis),
            attributes_section(analysis),
            _samples(samples),
            _facts(facts),
        ]
    )


def metric_cells(row: Mapping[str, float]) -> str:
    """A table cell for each of U, S, H, T1 and AUSUC."""
    return "".join(f'<td class="number">{metric_text(row, m)}</td>' for m in _COLUMNS)


def metric_text(row: Mapping[str, float], metric: str) -> str:
    """A metric as it is printed; a dash where it could not be measured."""
    if metric not in row:
        return "–"
    return f"{row[metric]:.3f}" if metric == AUSUC else f"{row[metric]:.1f}"


def metric_heads() -> str:
    """Their column heads."""
    return "".join(f'<th scope="col" class="number">{m}</th>' for m in _COLUMNS)


def protocol_note(result: Mapping[str, object]) -> str:
    """How a result was selected, and whether that is fair."""
    fair = (
        " The best step was picked by the test sets: not a fair estimate."
        if result["protocol"] == "test-best"
        else " The test sets were read once, at the end."
    )
    return f"Protocol {result['protocol']}: selected by {result['selected_by']}.{fair}"


def _head(facts: Facts, analysis: Analysis) -> str:
    result = analysis.result
    calibrated = result.get("test_calibrated")
    fused = (calibrated or result["test"])["fused"]
    how = "calibrated on validation classes" if calibrated else "fixed bias and mixes"
    by_test = " (test-best)" if result["protocol"] == "test-best" else ""
    tiles = "".join(
        f"<div{' class=first' if m == 'H' else ''}><dt>{m}{by_test}</dt>"
        f"<dd>{metric_text(fused, m)}</dd></div>"
        for m in ("H", "U", "S", "T1", AUSUC)
    )
    return (
        f'<p class="note">Run {text(facts.run)}: {text(facts.summary)} '
        f"{text(protocol_note(result))}</p>"
        f'<dl class="tiles">{tiles}</dl>'
        f'<p class="note">Fused score on the test sets, {how}. U and S: accuracy per class in '
        "percent, averaged over unseen and seen classes; H: their harmonic mean; T1: unseen "
        "pictures when only unseen classes are candidates; AUSUC: area under the curve of S over "
        f"U, from 0 to 1. Choosing by chance gives U = S = H = {analysis.chance:.1f}.</p>"
    )


def _results(analysis: Analysis) -> str:
    result = analysis.result
    blocks = [_metrics("fixed bias and mixes", result["test"])]
    note = ""
    if calibrated := result.get("test_calibrated"):
        blocks.append(_metrics("calibrated", calibrated))
        rows = "; ".join(
            f"{e}: {_mixing(c, analysis.mixes)}"
            for e, c in ((e, result["calibration"][e]) for e in EXPERTS if e in calibrated)
        )
        note = (
            f'<p class="note">Calibrated: chosen by H on {text(result["calibration"]["chosen_on"])}'
            f" and frozen before any test image was read ({rows}). Fixed: "
            f"{_mixing(analysis.fixed.to_json(), analysis.mixes)}.</p>"
        )
    best = result.get("test_best_t1")
    if best:
        note += (
            f'<p class="note">Best T1 by test (test-best): {best["T1"]:.1f} at step '
            f"{best['step']}.</p>"
        )
    section = f"<section><h2>Result on the test sets</h2>{_table(blocks)}{note}</section>"
    return section + ("" if "H" in result["test"]["fused"] else _validation(result))


def _validation(result: Mapping[str, Any]) -> str:
    """What stands in for U, H and T1 where no unseen class has a test image."""
    if "validation" not in result:
        return ""
    experts = [e for e in EXPERTS if e in result["validation"]]
    blocks = [_metrics("fixed bias and mixes", {e: result["validation"][e] for e in experts})]
    if chosen := result.get("calibration"):
        blocks.append(_metrics("calibrated", {e: chosen[e]["validation"] for e in experts}))
    return (
        f"<section><h2>On validation classes</h2>{_table(blocks)}"
        '<p class="note">Seen classes that act as unseen; they chose the step, gamma and mixes, '
        "so that classes which chose nothing are likely to do worse.</p></section>"
    )


def _table(blocks: Sequence[str]) -> str:
    return (
        '<div class="wide"><table><thead><tr><th scope="col"></th><th scope="col">expert</th>'
        f"{metric_heads()}</tr></thead><tbody>{''.join(blocks)}</tbody></table></div>"
    )


def _mixing(values: Mapping[str, float], mixes: Sequence[str]) -> str:
    """Gamma, and of the mixes those that mix anything."""
    return ", ".join(f"{name} {values[name]:.3g}" for name in ("gamma", *mixes))


def _metrics(title: str, metrics: Metrics) -> str:
    present = [e for e in EXPERTS if e in metrics]
    return "".join(
        f'<tr><th scope="row">{title if e == present[0] else ""}</th><td>{e}</td>'
        f"{metric_cells(metrics[e])}</tr>"
        for e in present
    )


def _curve(figures: Mapping[str, str], analysis: Analysis) -> str:
    if "curve" not in figures:
        return ""
    areas = ", ".join(f"{name} {c.area:.3f}" for name, c in analysis.curves.items())
    return (
        "<section><h2>Seen against unseen</h2>"
        + figure(
            figures["curve"],
            f"Curve of accuracy on seen over unseen classes; AUSUC: {areas}.",
            "Every gamma gives a point: further to the right unseen classes are favoured more. "
            "Grey: points of equal H. Marked are the fixed gamma, the one chosen on validation "
            "classes if there is one, and, for comparison only, the best point of the test curve "
            "(test-best).",
        )
        + "</section>"
    )


def _learning(figures: Mapping[str, str], analysis: Analysis) -> str:
    if "learning" not in figures:
        return ""
    if analysis.result["protocol"] == "validation":
        caption = (
            "Left: evaluations on the validation classes, which that phase never trained on. They "
            "choose how long to train, and are no estimate of the test result: the final phase "
            "then trains on all of trainval, and only the table above is about the test sets."
        )
    elif analysis.result["protocol"] == "test-best":
        caption = "Left: evaluations on the test sets, by which the step was picked (test-best)."
    else:
        caption = "Nothing is evaluated before the end of the recipe."
    return (
        "<section><h2>While training</h2>"
        + figure(figures["learning"], "Evaluations and losses by step.", caption)
        + "</section>"
    )


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    items = "".join(
        f'<figure class="{"right" if s.right else "wrong"}"><img src="'
        f'{data_uri(s.jpeg, "image/jpeg")}" alt="{text(s.label)}, '
        f'{"rightly" if s.right else "wrongly"} taken for {text(s.predicted)}">'
        f"<figcaption>{'✓' if s.right else '✗'} "
        f"{label(s.predicted)}"
        + ("" if s.right else f'<br><span class="kind">is {label(s.label)}</span>')
        + "</figcaption></figure>"
        for s in samples
    )
    return (
        "<section><h2>Test pictures of unseen classes</h2>"
        '<p class="note">✓ and a blue edge: right; ✗ and an orange edge: wrong, and what it is.</p>'
        f'<div class="samples">{items}</div></section>'
    )


def _facts(facts: Facts) -> str:
    parts = {
        "Config": facts.config,
        "Fingerprint of the data": facts.fingerprint,
        "Versions": facts.versions,
    }
    return f"<section><h2>To repeat it</h2>{json_details(parts)}</section>"


def json_details(parts: Mapping[str, object]) -> str:
    """Parts that open on a click, by their titles, as JSON."""
    return "".join(
        f"<details><summary>{text(title)}</summary><pre>{text(json.dumps(value, indent=2))}</pre>"
        "</details>"
        for title, value in parts.items()
    )


def figure(svg: str, alt: str, caption: str) -> str:
    """A drawing with a description for those who do not see it, and a caption for all."""
    drawing = svg.replace("<svg", f'<svg role="img" aria-label="{text(alt)}"', 1)
    below = f'<figcaption class="note">{text(caption)}</figcaption>'
    return f'<figure><div class="wide">{drawing}</div>{below}</figure>'
