"""The figures of an explanation as PNG files, for a talk or a paper."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dedn_jax.data.pictures.transforms import resize
from dedn_jax.figure_text import plain_text
from dedn_jax.inference.explain.bars import (
    SEGMENTS,
    Bar,
    bars,
    part_text,
    rest,
    shown_attributes,
    signed,
    span,
)
from dedn_jax.inference.explain.decomposition import EXPERTS
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.overlay import Scale, overlay

_DPI = 110
_LEAST = 2.6  # inches of height: the picture is beside the bars
_PAIRS = 3  # attributes in a row
_SIDE, _GAP, _TEXT, _LINE = 200, 8, 56, 15  # of a map, between two, above them, a line: pixels
_LABEL, _TITLE = 34, 46  # characters on a line


@plain_text()
def draw_scores(explanation: Explanation, top: int) -> bytes:
    """A PNG of the picture beside the score and the difference, taken apart."""
    e = explanation
    charts = [(f"Score of {e.class_name}", e.score)]
    if e.difference is not None:
        charts.append((f"{e.class_name}, not {e.against_name}", e.difference))
    drawn = [
        (title, bars(parts, e.attribute_names, top), rest(parts, top)) for title, parts in charts
    ]
    rows = max(len(lines) + len(sums) for _, lines, sums in drawn)
    size = 3.2 + 5.2 * len(charts), max(0.27 * rows + 1.3, _LEAST)
    figure = Figure(figsize=size, layout="constrained")
    left, *right = figure.subplots(1, 1 + len(charts), width_ratios=[3, *[5] * len(charts)])
    _picture(left, e)
    for axes, chart in zip(right, drawn, strict=True):
        _chart(axes, *chart)
    keys = [Patch(color=colour, label=name) for name, colour in SEGMENTS.items()]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=8
    )
    return _png(figure)


@plain_text()
def draw_attention(explanation: Explanation, top: int) -> bytes:
    """A PNG of both experts' region attention for the leading attributes."""
    e = explanation
    attributes = shown_attributes(e, top)
    width, height = 2 * _SIDE + 3 * _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(attributes) // _PAIRS)
    size = width * min(len(attributes), _PAIRS), height * rows
    # Placed by pixels: a layout engine takes a second over this many pictures.
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    for number, a in enumerate(attributes):
        left, top_edge = number % _PAIRS * width + _GAP, size[1] - number // _PAIRS * height
        scale = Scale.of(e.region_attention[:, a])
        heads = [
            (_wrapped(e.attribute_names[a], _TITLE), 8, "bold"),
            (part_text(e, a), 8, "normal"),
        ]
        for line, (text, font, weight) in enumerate(heads):
            at = (left / size[0], (top_edge - _GAP - line * _LINE) / size[1])
            figure.text(*at, text, fontsize=font, weight=weight, va="top")
        for x, (expert, grid) in enumerate(zip(EXPERTS, e.region_attention[:, a], strict=True)):
            corner = left + x * (_SIDE + _GAP), top_edge - height + _GAP
            drawn = resize(overlay(e.picture, grid, scale), _SIDE, _SIDE)
            figure.figimage(drawn, *corner, origin="upper")
            at = (corner[0] / size[0], (corner[1] + _SIDE + _GAP / 2) / size[1])
            text = f"{expert}, up to {grid.max() * grid.size:.1f}× even"
            figure.text(*at, text, fontsize=7, color="0.35")
    return _png(figure)


def _picture(axes: Axes, e: Explanation) -> None:
    axes.imshow(e.picture)
    axes.set_anchor("N")
    axes.axis("off")
    lines = [
        f"{e.scores[k]:.3f}  {_wrapped(e.class_names[k], _LABEL)}"
        for k in e.ranked()
        if k in (e.explained, e.against)
    ]
    axes.set_title("\n".join(lines), fontsize=9, loc="left")


def _chart(axes: Axes, title: str, lines: Sequence[Bar], sums: Sequence[tuple[str, float]]) -> None:
    low, high = span(lines)
    room = 0.18 * max(high - low, 0.001)  # two classes may be described alike
    for row, bar in enumerate(lines):
        for name, start, length in bar.boxes():
            axes.barh(row, length, left=start, height=0.7, color=SEGMENTS[name])
    texts = [*((_wrapped(bar.label, _LABEL), bar.value) for bar in lines), *sums]
    for row, (_, value) in enumerate(texts):
        axes.text(high + room, row, signed(value), va="center", ha="right", fontsize=8)
    axes.plot([0, 0], [-0.5, len(lines) - 0.5], color="0.1", linewidth=0.8)
    axes.axhline(len(lines) - 0.5, color="0.8", linewidth=0.8)
    axes.set_xlim(low - room / 8, high + room)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.set_yticks(range(len(texts)), [label for label, _ in texts], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(_wrapped(title, _TITLE), fontsize=10, loc="left")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _wrapped(text: str, width: int) -> str:
    """On at most two lines: names may be long."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…")) or text


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # A tenth larger than by Pillow's default, in a third less time.
    figure.savefig(file, dpi=_DPI, format="png", pil_kwargs={"compress_level": 3})
    return file.getvalue()
