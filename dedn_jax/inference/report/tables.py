"""The tables of a report as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dedn_jax.inference.report.analysis import Analysis
from dedn_jax.training.evaluation import AUSUC, METRICS

_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{c: "\\" + c for c in "&%$#_{}"},
        **dict.fromkeys("\n\r\t", " "),
    }
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


def classes_csv(analyses: Mapping[str, Analysis]) -> str:
    """A row for every class of every run."""
    rows = [
        [run, c.name, "seen" if c.seen else "unseen", c.images, c.fixed, c.calibrated]
        + [c.coarse, c.fine, *(c.taken_for or ("", ""))]
        for run, analysis in analyses.items()
        for c in analysis.classes
    ]
    head = ["run", "class", "kind", "images", "accuracy_fixed", "accuracy_calibrated"]
    head += ["accuracy_coarse", "accuracy_fine", "mostly_taken_for", "images_taken_for_it"]
    return _csv(head, rows)


def attributes_csv(analyses: Mapping[str, Analysis]) -> str:
    """A row for every attribute of every run."""
    rows = [
        [run, a.name, a.group, a.classes, *a.coarse, *a.fine]
        for run, analysis in analyses.items()
        for a in analysis.attributes
    ]
    head = ["run", "attribute", "group", "classes_with_it", "coarse_average_precision"]
    return _csv([*head, "coarse_auc", "fine_average_precision", "fine_auc"], rows)


def table_tex(rows: Sequence[tuple[str, Mapping[str, float | str]]], note: str = "") -> str:
    """A `tabular` of U, S, H, T1 and AUSUC; needs no package.

    Args:
      rows: what each is, and its metrics, or their means with intervals as text.
      note: a comment above it, on one line.
    """
    lines = [f"% {note}"] if note else []
    lines += [r"\begin{tabular}{lrrrrr}", r" & U & S & H & T1 & AUSUC \\ \hline"]
    for name, metrics in rows:
        cells = [_tex_number(metrics.get(m), 3 if m == AUSUC else 1) for m in (*METRICS, AUSUC)]
        lines.append(f"{tex(name)} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"\end{tabular}", ""])


def _tex_number(value: float | str | None, digits: int) -> str:
    if value is None:
        return "--"
    return value.replace("±", r"$\pm$") if isinstance(value, str) else f"{value:.{digits}f}"


def tex(text: str) -> str:
    """Text as LaTeX prints it.

    >>> tex("50% of $x_1$")
    '50\\\\% of \\\\$x\\\\_1\\\\$'
    """
    return text.translate(_TEX)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    # A spreadsheet shows text that begins with an apostrophe, and computes nothing.
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
