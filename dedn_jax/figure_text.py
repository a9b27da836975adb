"""The text of figures: names are shown as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib


@contextmanager
def plain_text(style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within the block, `$` in a text of Matplotlib is a dollar and begins no formula.

    Every figure with names of classes, attributes, runs or files is drawn in such a block: a name
    that is no formula would end the drawing with an error.

    Args:
      style: settings of Matplotlib beside it.
    """
    settings: dict[Any, Any] = {**(style or {}), "text.parse_math": False}
    with matplotlib.rc_context(settings):
        yield
