"""Draws rows of pictures beside text: what all contact sheets are made of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

PICTURES = 6  # in a row, at most
_DPI = 100


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


def draw_sheet(rows: Sequence[Row]) -> bytes:
    """A PNG file of 1200 pixels width and 150 pixels height per row."""
    figure = Figure(figsize=(1.4 * PICTURES + 3.6, 1.5 * len(rows)), layout="constrained")
    grid = figure.subplots(
        len(rows), PICTURES + 1, squeeze=False, width_ratios=[2.6, *[1] * PICTURES]
    )
    for axes in grid.flat:
        axes.axis("off")
    # Plain text: a `$` in a class name must not start a formula.
    for row, (left, *places) in zip(rows, grid, strict=True):
        left.text(0, 1, row.name, va="top", weight="bold", size=9, parse_math=False)
        left.text(0, 0.84, "\n".join(row.facts), va="top", size=8, parse_math=False)
        for axes, picture in zip(places, row.pictures, strict=False):
            axes.imshow(picture)
        for axes, (text, color) in zip(places, row.captions, strict=False):
            axes.set_title(text, size=7, color=color, parse_math=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    return drawn.getvalue()
