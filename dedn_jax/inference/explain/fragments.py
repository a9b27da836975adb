"""Pieces of HTML that show why a class: parts of a score, attention over the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from dedn_jax.inference.explain.bars import SEGMENTS, Bar, bars, part_text, rest, signed, span
from dedn_jax.inference.explain.decomposition import EXPERTS, Decomposition
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.overlay import COLOURS, Scale, jpeg, overlay
from dedn_jax.inference.html import data_uri, label, text

_STOPS = 9  # of the colour scale's gradient
_WIDTH, _HEIGHT = 300, 12  # of a bar's drawing, stretched to the room there is

# Of the pieces below, wherever they are put; after `html.TABLE_STYLE`.
STYLE = """
img { width: 100%; height: auto; display: block; border-radius: 4px; }
thead th + th { text-align: right; }
td.bar { width: 50%; padding-right: 0; } td.bar svg { display: block; width: 100%; height: 14px; }
tfoot th, tfoot td { color: #555; }
tfoot tr:last-child > * { color: #1a1a1a; font-weight: 600; border-bottom: 0; }
tr.chosen th, tr.chosen td { font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .4rem 0; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .35em; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; text-align: center;
  font-size: .8rem; color: #555; }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8rem; color: #555; }
.scale i { flex: 1; height: 8px; border-radius: 4px; }
@media (max-width: 36rem) {
  table.parts tr { display: grid; grid-template-columns: minmax(0, 1fr) auto;
    border-bottom: 1px solid #e5e5e5; }
  table.parts th, table.parts td { border-bottom: 0; }
  table.parts td.bar { grid-column: 1 / 3; width: auto; padding: 0 0 .4rem; }
  table.parts thead { display: none; }
}
"""


def parts_table(parts: Decomposition, attribute_names: Sequence[str], top: int) -> str:
    """A bar for each of the leading attributes, and what makes their total."""
    drawn = bar_rows(bars(parts, attribute_names, top))
    return f"{key()}{bar_table('attribute', drawn, sum_rows(rest(parts, top)))}"


def key() -> str:
    """Which colour is which part of a bar."""
    colours = "".join(
        f'<span><i style="background:{colour}"></i>{name}</span>'
        for name, colour in SEGMENTS.items()
    )
    return f'<div class="key">{colours}</div>'


def sum_rows(sums: Sequence[tuple[str, float]]) -> str:
    """Rows without bars, as of `rest`."""
    return "".join(
        f'<tr><th scope="row">{text(name)}</th><td class="number">{signed(value)}</td>'
        '<td class="bar"></td></tr>'
        for name, value in sums
    )


def bar_table(head: str, rows: str, sums: str = "") -> str:
    """A table of `bar_rows`.

    Args:
      head: of the first column.
      rows: with bars.
      sums: below them.
    """
    return (
        f'<table class="parts"><thead><tr><th scope="col">{head}</th><th scope="col">part</th>'
        f'<th scope="col"></th></tr></thead><tbody>{rows}</tbody><tfoot>{sums}</tfoot></table>'
    )


def bar_rows(lines: Sequence[Bar], ends: tuple[float, float] | None = None) -> str:
    """Rows of bars on one axis: from `ends[0]` to `ends[1]`, or as they need."""
    ends = ends or span(lines)
    return "".join(
        f'<tr><th scope="row">{label(bar.label)}</th><td class="number">{signed(bar.value)}</td>'
        f'<td class="bar">{_bar(bar, ends)}</td></tr>'
        for bar in lines
    )


def attention_figure(explanation: Explanation, attribute: int) -> str:
    """Where both experts look for an attribute, on one colour scale."""
    e, name = explanation, explanation.attribute_names[attribute]
    maps = e.region_attention[:, attribute]
    scale = Scale.of(maps)
    images = "".join(
        "<span>"
        + image(overlay(e.picture, grid, scale), f"Where the {expert} expert looks for {name}")
        + f"{expert}</span>"
        for expert, grid in zip(EXPERTS, maps, strict=True)
    )
    return (
        f'<figure><div class="pair">{images}</div>{_scale(scale)}'
        f"<figcaption><b>{label(name)}</b><br>{part_text(e, attribute)}</figcaption></figure>"
    )


def image(pixels: UInt8[np.ndarray, "height width 3"], alt: str) -> str:
    """A picture that is part of the page."""
    return f'<img src="{data_uri(jpeg(pixels), "image/jpeg")}" alt="{text(alt)}">'


def _bar(bar: Bar, ends: tuple[float, float]) -> str:
    """A drawing of stacked segments; the numbers beside it say the same."""
    low, high = ends
    unit = _WIDTH / max(high - low, 1e-12)
    boxes = "".join(
        f'<rect x="{(start - low) * unit:.2f}" y="1" width="{length * unit:.2f}" '
        f'height="{_HEIGHT - 2}" fill="{SEGMENTS[name]}"/>'
        for name, start, length in bar.boxes()
    )
    zero = -low * unit
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'{boxes}<path d="M{zero:.2f} 0V{_HEIGHT}" stroke="#1a1a1a" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _scale(scale: Scale) -> str:
    stops = ",".join(
        "#" + bytes(int(255 * c) for c in COLOURS(x)[:3]).hex() for x in np.linspace(0, 1, _STOPS)
    )
    return (
        f'<div class="scale">{scale.low:.2f}<i style="background:linear-gradient(to right,{stops})"'
        f"></i>{scale.high:.2f}</div>"
    )
