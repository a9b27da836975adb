"""Draws rows of pictures beside text: what all contact sheets are made of."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dedn_jax.figure_text import plain_text

PICTURES = 6  # in a row, at most
_DPI = 100
# Characters that fit beside and above a picture.
_NAME_WIDTH, _CAPTION_WIDTH = 20, 22


class Row(NamedTuple):
    """A row of a sheet.

    Attributes:
      name: in bold, to the left.
      pictures: `[height, width, 3]` uint8, up to `PICTURES`.
      facts: lines below the name.
      captions: text and color above each picture; may be empty.
    """

    name: str
    pictures: Sequence[np.ndarray]
    facts: Sequence[str] = ()
    captions: Sequence[tuple[str, str]] = ()


@plain_text()
def draw_sheet(rows: Sequence[Row]) -> bytes:
    """A PNG file of 150 to 180 pixels height per row: 1200 pixels wide with facts, else 1000."""
    facts, captions = (any(getattr(row, name) for row in rows) for name in ("facts", "captions"))
    text, height = (3.6, 1.5) if facts else (1.6, 1.5)
    if captions:
        height += 0.3
    figure = Figure(figsize=(1.4 * PICTURES + text, height * len(rows)), layout="constrained")
    grid = figure.subplots(
        len(rows), PICTURES + 1, squeeze=False, width_ratios=[text / 1.4, *[1] * PICTURES]
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, (left, *places) in zip(rows, grid, strict=True):
        name = row.name if facts else _wrapped(row.name, _NAME_WIDTH)
        left.text(0, 1, name, va="top", weight="bold", size=9)
        left.text(0, 0.84, "\n".join(row.facts), va="top", size=8)
        for axes, picture in zip(places, row.pictures, strict=False):
            axes.imshow(picture)
        for axes, (caption, color) in zip(places, row.captions, strict=False):
            wrapped = _wrapped(caption, _CAPTION_WIDTH)
            axes.set_title(wrapped, size=7, color=color)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    return drawn.getvalue()


def _wrapped(text: str, width: int) -> str:
    """On at most two lines: longer names would run into their neighbours'."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…")) or text
