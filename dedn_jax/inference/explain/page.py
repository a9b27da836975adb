"""The page of an explanation: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np

from dedn_jax.inference.explain.bars import (
    SEGMENTS,
    Bar,
    bars,
    leading_channels,
    part_text,
    rest,
    shown_attributes,
    signed,
    span,
)
from dedn_jax.inference.explain.decomposition import CHANNEL, EXPERTS, Decomposition
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.overlay import COLOURS, Scale, jpeg, overlay

_RANKED = 5  # candidates listed
_STOPS = 9  # of the colour scale's gradient
_WIDTH, _HEIGHT = 300, 12  # of a bar's drawing, stretched to the room there is

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
.note { color: #555; font-size: .9rem; margin: .3rem 0; }
.top { display: grid; grid-template-columns: minmax(0, 18rem) minmax(0, 1fr); gap: 1.5rem;
  align-items: start; }
img { width: 100%; height: auto; display: block; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; border-bottom: 1px solid #e5e5e5;
  font-weight: normal; vertical-align: middle; }
thead th { color: #555; font-size: .85rem; } thead th + th { text-align: right; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 50%; padding-right: 0; } td.bar svg { display: block; width: 100%; height: 14px; }
tfoot th, tfoot td { color: #555; }
tfoot tr:last-child > * { color: #1a1a1a; font-weight: 600; border-bottom: 0; }
tr.chosen th, tr.chosen td { font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .4rem 0; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .35em; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .9rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; text-align: center;
  font-size: .8rem; color: #555; }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8rem; color: #555; }
.scale i { flex: 1; height: 8px; border-radius: 4px; }
.channels { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr));
  gap: 1.5rem; }
@media (max-width: 36rem) {
  .top { grid-template-columns: minmax(0, 1fr); }
  table.parts tr { display: grid; grid-template-columns: minmax(0, 1fr) auto;
    border-bottom: 1px solid #e5e5e5; }
  table.parts th, table.parts td { border-bottom: 0; }
  table.parts td.bar { grid-column: 1 / 3; width: auto; padding: 0 0 .4rem; }
  table.parts thead { display: none; }
}
"""


def page(explanation: Explanation, name: str, top: int) -> str:
    """The page.

    Args:
      explanation: of a picture.
      name: of the picture.
      top: how many attributes and channels are shown of each kind.
    """
    e, against = explanation, explanation.against_name
    title = f"Why {e.class_name}?"
    sections = [
        _head(e, name),
        _parts(f"What adds up to the score of {e.class_name}", e, e.score, top),
    ]
    if e.difference is not None and against is not None:
        note = f"To the right: for {e.class_name}. To the left: for {against}."
        why = f"Why {e.class_name} and not {against}"
        sections.append(_parts(why, e, e.difference, top, note))
    sections += [_attention(e, top), _channels(e, top)]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)} {_text(name)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{_text(title)}</h1>\n" + "\n".join(sections) + "\n</html>\n"
    )


def _head(e: Explanation, name: str) -> str:
    rows = "".join(
        f"<tr{' class=chosen' if k == e.explained else ''}>"
        f'<th scope="row">{_text(e.class_names[k])}</th>'
        f"<td>{'seen' if e.seen[k] else 'unseen'}</td>"
        f'<td class="number">{e.scores[k]:.3f}</td></tr>'
        for k in e.ranked()
        if k in (*e.ranked()[:_RANKED], e.explained, e.against)
    )
    m = e.mixing
    gamma = f" Unseen classes are given gamma, {m.gamma:.3f}." if m.gamma else ""
    picture = _image(e.picture, f"The picture {name}, as the model saw it")
    return (
        f'<div class="top"><figure>{picture}<figcaption class="note">{_text(name)}, as the model '
        "saw it</figcaption></figure><div><table><thead><tr>"
        '<th scope="col">class</th><th scope="col"></th><th scope="col">score</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f'<p class="note">Of {len(e.class_names)} classes. A score is {m.expert_mix:.0%} the '
        f"coarse expert's and {1 - m.expert_mix:.0%} the fine one's; of each, {m.region_mix:.0%} "
        f"the region branch's and {1 - m.region_mix:.0%} the channel branch's.{gamma}</p>"
        "</div></div>"
    )


def _parts(title: str, e: Explanation, parts: Decomposition, top: int, note: str = "") -> str:
    drawn = _rows(bars(parts, e.attribute_names, top))
    sums = "".join(
        f'<tr><th scope="row">{label}</th><td class="number">{signed(value)}</td>'
        '<td class="bar"></td></tr>'
        for label, value in rest(parts, top)
    )
    key = "".join(
        f'<span><i style="background:{colour}"></i>{name}</span>'
        for name, colour in SEGMENTS.items()
    )
    note = f'<p class="note">{_text(note)}</p>' if note else ""
    return (
        f'<section><h2>{_text(title)}</h2>{note}<div class="key">{key}</div>'
        f"{_table('attribute', drawn, sums)}</section>"
    )


def _table(head: str, rows: str, sums: str = "") -> str:
    return (
        f'<table class="parts"><thead><tr><th scope="col">{head}</th><th scope="col">part</th>'
        f'<th scope="col"></th></tr></thead><tbody>{rows}</tbody><tfoot>{sums}</tfoot></table>'
    )


def _rows(lines: Sequence[Bar], ends: tuple[float, float] | None = None) -> str:
    ends = ends or span(lines)
    return "".join(
        f'<tr><th scope="row">{_text(bar.label)}</th><td class="number">{signed(bar.value)}</td>'
        f'<td class="bar">{_bar(bar, ends)}</td></tr>'
        for bar in lines
    )


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


def _attention(e: Explanation, top: int) -> str:
    figures = []
    for a in shown_attributes(e, top):
        attribute, maps = e.attribute_names[a], e.region_attention[:, a]
        scale = Scale.of(maps)
        images = "".join(
            "<span>"
            + _image(
                overlay(e.picture, grid, scale), f"Where the {expert} expert looks for {attribute}"
            )
            + f"{expert}</span>"
            for expert, grid in zip(EXPERTS, maps, strict=True)
        )
        figures.append(
            f'<figure><div class="pair">{images}</div>{_scale(scale)}'
            f"<figcaption><b>{_text(attribute)}</b><br>{part_text(e, a)}</figcaption></figure>"
        )
    return (
        "<section><h2>Where the experts look</h2>"
        '<p class="note">Attention of the region branch for the leading attributes, with one '
        "colour scale for both experts: 1 is what every region would have if all had the "
        f'same.</p><div class="maps">{"".join(figures)}</div></section>'
    )


def _scale(scale: Scale) -> str:
    stops = ",".join(
        "#" + bytes(int(255 * c) for c in COLOURS(x)[:3]).hex() for x in np.linspace(0, 1, _STOPS)
    )
    return (
        f'<div class="scale">{scale.low:.2f}<i style="background:linear-gradient(to right,{stops})"'
        f"></i>{scale.high:.2f}</div>"
    )


def _channels(e: Explanation, top: int) -> str:
    both = leading_channels(e, top)
    ends = span([bar for channels in both for bar in channels])
    tables = "".join(
        _table(f"{expert} expert", _rows(channels, ends))
        for expert, channels in zip(EXPERTS, both, strict=True)
    )
    count = e.channel_attention.shape[-1]
    even = ", ".join(
        f"{signed(part / count)} ({expert})"
        for expert, part in zip(EXPERTS, e.score.parts[:, CHANNEL].sum(-1).tolist(), strict=True)
    )
    return (
        "<section><h2>Strongest channels</h2>"
        f'<p class="note">The channel branches\' part of the score of {_text(e.class_name)}, '
        "shared out over the feature map's channels by each attribute's attention to them. Shared "
        f'evenly over all {count}, a channel would have {even}.</p><div class="channels">{tables}'
        "</div></section>"
    )


def _image(pixels: np.ndarray, alt: str) -> str:
    data = base64.b64encode(jpeg(pixels)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_text(alt)}">'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
