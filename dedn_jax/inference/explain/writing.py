"""The files of an explanation, under names made of the pictures' names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

from dedn_jax.files import write_atomically, write_json
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.figures import draw_attention, draw_scores
from dedn_jax.inference.explain.page import page

_MAX_BYTES = 100  # of a name, in UTF-8: most file systems allow 255 with what is added
_UNSAFE = re.compile(r"[^\w.-]+")


def write_explanation(
    explanation: Explanation, folder: Path, stem: str, name: str, top: int
) -> Path:
    """Writes `STEM.html`, `STEM.json`, `STEM-scores.png` and `STEM-attention.png`.

    Args:
      explanation: of a picture.
      folder: made if missing.
      stem: of the files' names; see `safe_stems`.
      name: of the picture, for the page.
      top: how many attributes and channels are shown of each kind.

    Returns:
      The page.
    """
    write_json(folder / f"{stem}.json", {"picture": name} | explanation.to_json())
    write_atomically(folder / f"{stem}-scores.png", draw_scores(explanation, top))
    write_atomically(folder / f"{stem}-attention.png", draw_attention(explanation, top))
    path = folder / f"{stem}.html"
    # A file's name need not be UTF-8.
    write_atomically(path, page(explanation, name, top).encode(errors="replace"))
    return path


def safe_stems(names: Sequence[str]) -> list[str]:
    """A file name for each picture, without a suffix: its own as far as that is safe.

    Letters of any script, digits, `.`, `-` and `_` are kept; the rest, path separators included,
    becomes `_`. Names that differ in case alone are the same file on some systems: the second of
    two equal ones gets `-2`, and so on.

    >>> safe_stems(["birds/jay.jpg", "more/Jay.png", "../..", "a b?.jpg"])
    ['jay', 'Jay-2', 'picture', 'a_b_']
    """
    taken: set[str] = set()
    stems = []
    for name in names:
        text = unicodedata.normalize("NFC", PurePath(name).stem)
        text = _UNSAFE.sub("_", text).lstrip(".-") or "picture"
        base = text.encode("utf-8", "ignore")[:_MAX_BYTES].decode("utf-8", "ignore")
        stem, number = base, 1
        while _key(stem) in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(_key(stem))
        stems.append(stem)
    return stems


def _key(stem: str) -> str:
    return unicodedata.normalize("NFC", stem.casefold())
