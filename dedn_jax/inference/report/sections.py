"""Sections of a report's page that are tables of classes and attributes."""

from __future__ import annotations

import math

from dedn_jax.inference.html import label
from dedn_jax.inference.report.analysis import Analysis, AttributeRow


def classes_section(analysis: Analysis) -> str:
    """A row for every class: accuracies, and what it is mostly taken for."""
    calibrated = analysis.calibrated is not None
    heads = ["class", "", "images", "accuracy", *(["fixed"] if calibrated else [])]
    heads += [*_experts_alone(analysis), "mostly taken for"]
    numbers = set(heads) - {"class", "", "mostly taken for"}
    head = "".join(
        f'<th scope="col"{" class=number" if h in numbers else ""}>{h or "kind"}</th>'
        for h in heads
    )
    rows = []
    for c in analysis.classes:
        values = [c.images, c.reported]
        values += [c.fixed] if calibrated else []
        cells = "".join(
            f'<td class="number">{v if isinstance(v, int) else f"{v:.1f}"}</td>'
            for v in (*values, *(getattr(c, e) for e in _experts_alone(analysis)))
        )
        other = f"{label(c.taken_for[0])} ({c.taken_for[1]})" if c.taken_for else ""
        rows.append(
            f'<tr><th scope="row">{label(c.name)}</th><td class="kind">'
            f"{'seen' if c.seen else 'unseen'}</td>{cells}<td>{other}</td></tr>"
        )
    return (
        "<section><h2>Classes</h2>"
        f'<p class="note">Accuracy in percent of the fused score'
        f"{', calibrated and with the fixed bias and mixes' if calibrated else ''}"
        f"{_of_experts_alone(analysis, calibrated)}. "
        "Click on a column's head to sort.</p>"
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div></section>"
    )


def _experts_alone(analysis: Analysis) -> tuple[str, ...]:
    """The experts, where they are not the fused score already."""
    return analysis.experts if len(analysis.experts) > 1 else ()


def _of_experts_alone(analysis: Analysis, calibrated: bool) -> str:
    own = ", with a calibration of its own" if calibrated else ""
    return f", and of each expert alone{own}" if _experts_alone(analysis) else ""


def confusions_section(analysis: Analysis) -> str:
    """The most frequent confusions of seen and of unseen classes."""
    tables = []
    for seen, title in ((True, "Images of seen classes"), (False, "Images of unseen classes")):
        rows = "".join(
            f'<tr><th scope="row">{label(c.name)}</th><td>{label(c.taken_for)}</td>'
            f'<td class="number">{c.images}</td><td class="number">{c.share:.0%}</td></tr>'
            for c in analysis.confusions
            if c.seen == seen
        )
        if rows:
            tables.append(
                f'<div><h3>{title}</h3><table><thead><tr><th scope="col">class</th>'
                '<th scope="col">taken for</th><th scope="col" class="number">images</th>'
                f'<th scope="col" class="number">share</th></tr></thead><tbody>{rows}</tbody>'
                "</table></div>"
            )
    if not tables:
        return ""
    return (
        "<section><h2>Most frequent confusions</h2>"
        f'<div class="two">{"".join(tables)}</div></section>'
    )


def disagreement_section(analysis: Analysis) -> str:
    """How often which expert is right, and the classes where it matters most."""
    if not analysis.agreement:
        return ""
    rows = ""
    for kind, a in analysis.agreement.items():
        counts = (a.both, a.coarse, a.fine, a.neither)
        if total := sum(counts):
            cells = "".join(f'<td class="number">{n} ({n / total:.0%})</td>' for n in counts)
            rows += f'<tr><th scope="row">images of {kind} classes</th>{cells}</tr>'
    both = [(c, c.coarse or 0.0, c.fine or 0.0) for c in analysis.classes]
    classes = "".join(
        f'<tr><th scope="row">{label(c.name)}</th><td class="kind">'
        f"{'seen' if c.seen else 'unseen'}</td>"
        f'<td class="number">{coarse:.1f}</td><td class="number">{fine:.1f}</td></tr>'
        for c, coarse, fine in sorted(both, key=lambda one: -abs(one[1] - one[2]))[:8]
        if coarse != fine
    )
    heads = "".join(
        f'<th scope="col" class="number">{h}</th>'
        for h in ("both right", "only coarse", "only fine", "neither")
    )
    table = (
        f'<h3>Where it matters most</h3><table><thead><tr><th scope="col">class</th>'
        '<th scope="col">kind</th><th scope="col" class="number">coarse</th>'
        '<th scope="col" class="number">fine</th></tr></thead>'
        f"<tbody>{classes}</tbody></table>"
        if classes
        else ""
    )
    own = "; each calibrated on its own" if analysis.calibrated else ""
    return (
        "<section><h2>Where the experts disagree</h2>"
        f'<p class="note">Test images by which of the experts alone is right{own}.</p>'
        f'<div class="wide"><table><thead><tr><th scope="col"></th>{heads}</tr></thead><tbody>'
        f"{rows}</tbody></table></div>{table}</section>"
    )


def attributes_section(analysis: Analysis) -> str:
    """How well attributes are ranked: means by group, and every attribute."""

    def numbers(*values: float) -> str:
        return "".join(
            f'<td class="number">{"–" if math.isnan(v) else f"{v:.3f}"}</td>' for v in values
        )

    groups: dict[str, list[AttributeRow]] = {}
    for a in analysis.attributes:
        groups.setdefault(a.group, []).append(a)
    means, rows = "", ""
    for group, members in groups.items():
        columns = [
            [getattr(a, e)[i] for a in members if not math.isnan(getattr(a, e)[i])]
            for e in analysis.experts
            for i in (0, 1)
        ]
        averages = [sum(c) / len(c) if c else math.nan for c in columns]
        means += (
            f'<tr><th scope="row">{label(group)}</th><td class="number">{len(members)}</td>'
            f"{numbers(*averages)}</tr>"
        )
        rows += "".join(
            f'<tr><th scope="row">{label(a.name)}</th><td class="kind">{label(a.group)}</td>'
            f'<td class="number">{a.classes}</td>'
            f"{numbers(*(v for e in analysis.experts for v in getattr(a, e)))}</tr>"
            for a in members
        )
    heads = "".join(
        f'<th scope="col" class="number">{h}</th>'
        for h in (f"{e} {of}" for e in analysis.experts for of in ("AP", "AUC"))
    )
    return (
        "<section><h2>Attributes</h2>"
        '<p class="note">How well an attribute\'s score ranks test images of classes that have it '
        "(their value is above the mean over all classes) before the others: average precision and "
        "area under the ROC curve, 0.5 by chance; branches mixed as for the expert's own choices. "
        "Means by group:</p>"
        '<div class="wide"><table><thead><tr><th scope="col">group</th><th scope="col" '
        f'class="number">attributes</th>{heads}</tr></thead><tbody>{means}</tbody></table></div>'
        f"<details><summary>All {len(analysis.attributes)} attributes</summary>"
        '<div class="wide"><table class="sortable"><thead><tr><th scope="col">attribute</th>'
        '<th scope="col">group</th><th scope="col" class="number">classes with it</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )
