"""The text of figures: names are shown as they are, in any script that a font is there for."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import font_manager
from tqdm import tqdm

from dedn_jax.errors import printable

# Tried in turn for letters that Matplotlib's own font lacks, as far as they are installed.
_FALLBACKS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK TC",
    "Noto Sans CJK KR",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "IPAexGothic",
    "IPAGothic",
    "IPAPGothic",
    "TakaoGothic",
    "Droid Sans Fallback",
    "NanumGothic",
    "UnDotum",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "MS Gothic",
    "SimHei",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Bengali",
    "Noto Sans Devanagari",
    "Noto Sans Ethiopic",
    "Noto Sans Hebrew",
    "Noto Sans Tamil",
    "Noto Sans Thai",
)
_MISSING = re.compile(r"Glyph (\d+) .* missing from font")  # a warning of Matplotlib
_NAMED = 20  # letters that are named
_said: set[str] = set()
_log = logging.getLogger(font_manager.__name__)


@contextmanager
def plain_text(style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within the block, `$` in a text of Matplotlib is a dollar and begins no formula, and letters
    that its font lacks are drawn by others that are installed.

    Every figure with names of classes, attributes, runs or files is drawn in such a block: a name
    that is no formula would end the drawing with an error. Letters that no font has are named on
    standard error, once.

    Args:
      style: settings of Matplotlib beside it.
    """
    settings: dict[Any, Any] = {
        "font.family": ["sans-serif", *_installed()],
        **(style or {}),
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings(record=True) as caught:
        # Of text that stays text the reader's program chooses the font.
        drawn = matplotlib.rcParams["svg.fonttype"] != "none"
        warnings.filterwarnings("always", _MISSING.pattern)
        level = _log.level
        _log.setLevel(logging.ERROR)  # it warns of a font that has no bold face
        try:
            yield
        finally:
            _log.setLevel(level)
            found = [(w, _MISSING.match(str(w.message))) for w in caught]
    for warning, match in found:
        if match is None:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if drawn:
        _say_missing({chr(int(match[1])) for _, match in found if match})


def _installed() -> list[str]:
    names = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FALLBACKS if name in names]


def _say_missing(letters: set[str]) -> None:
    new = sorted(letters - _said)
    _said.update(new)
    if not new:
        return
    more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
    text = (
        f"figures: {' '.join(new[:_NAMED])}{more} drawn as boxes; install a font that has them, "
        "such as Noto Sans CJK for Chinese, Japanese and Korean, and remove Matplotlib's list of "
        f"fonts: {matplotlib.get_cachedir()}/fontlist*.json"
    )
    tqdm.write(printable(text), file=sys.stderr)
