"""Explanations of pictures as files, under names made of the pictures' names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

from dedn_jax.errors import InputError
from dedn_jax.files import check_output, write_atomically, write_json
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.explain.explanation import Explanation, explain, positions
from dedn_jax.inference.explain.figures import draw_attention, draw_scores
from dedn_jax.inference.explain.look import look
from dedn_jax.inference.explain.page import page
from dedn_jax.inference.picture_progress import PictureProgress, printable
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.run import TrainingRun

_MAX_BYTES = 100  # of a name, in UTF-8: most file systems allow 255 with what is added
_UNSAFE = re.compile(r"[^\w.-]+")


def explain_to_files(
    run: TrainingRun,
    pictures: Sequence[str],
    candidates: Candidates,
    folder: Path,
    *,
    top: int,
    explained: str | None = None,
    against: str | None = None,
) -> int:
    """Explains pictures one by one, writes the files of each and names its page.

    Pictures that cannot be used are named on standard error and skipped.

    Args:
      run: a finished run.
      pictures: files.
      candidates: the classes.
      folder: made if missing.
      top: how many attributes and channels are shown of each kind.
      explained, against: as for `explain`.

    Returns:
      How many pictures were skipped.

    Raises:
      InputError: the run or its backbone cannot be used, a class is no candidate, or the folder
        cannot be written to.
    """
    positions(candidates, explained, against)  # a misspelt name shows before seconds of work
    stems = safe_stems(pictures)
    for stem in stems:
        for name in _files(stem):
            check_output(folder / name, Path(name).suffix)
    mixing, scorer = run.mixing(), PictureScorer(run)
    with PictureProgress(len(pictures), "explaining") as bar:
        for picture, stem in zip(pictures, stems, strict=True):
            try:
                found = explain(
                    look(scorer, picture), candidates, mixing, explained=explained, against=against
                )
            except InputError as error:
                bar.skip(picture, error)
                continue
            page_file = write_explanation(found, folder, stem, picture, top)
            text = f"{picture}: {found.class_name} {found.score.total:.3f}, see {page_file}"
            bar.say(printable(text))
            bar.update()
    return len(bar.skipped)


def write_explanation(
    explanation: Explanation, folder: Path, stem: str, name: str, top: int
) -> Path:
    """Writes `STEM.html`, `STEM.json`, `STEM-scores.png` and `STEM-attention.png`.

    Args:
      explanation: of a picture.
      folder: made if missing.
      stem: of the files' names; see `safe_stems`.
      name: of the picture; the page shows the last part of a path.
      top: how many attributes and channels are shown of each kind.

    Returns:
      The page.
    """
    html, numbers, scores, attention = (folder / name for name in _files(stem))
    write_json(numbers, {"picture": name} | explanation.to_json())
    write_atomically(scores, draw_scores(explanation, top))
    write_atomically(attention, draw_attention(explanation, top))
    # A file's name need not be UTF-8.
    write_atomically(html, page(explanation, PurePath(name).name, top).encode(errors="replace"))
    return html


def _files(stem: str) -> tuple[str, str, str, str]:
    return f"{stem}.html", f"{stem}.json", f"{stem}-scores.png", f"{stem}-attention.png"


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
