"""Finds unusual pictures in a folder before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from dedn_jax.data.pictures.decoding import PictureError, load, rgb
from dedn_jax.progress import progress

TINY = 32  # pixels; a shorter side below this is listed
_ORIENTATION = 0x0112  # the EXIF tag
_GREY_MODES = ("1", "L", "LA", "I")
_ALPHA_MODES = ("RGBA", "LA", "PA")

# What a report lists, in this order, and how such pictures are treated.
KINDS = {
    "unreadable": "cannot be used",
    "truncated": "cannot be used",
    "greyscale": "become three equal channels",
    "CMYK": "become RGB without a colour profile",
    "EXIF-rotated": "used as stored, not rotated",
    "palette or alpha": "become RGB, alpha is dropped",
    f"short side below {TINY}": "enlarged",
    "duplicates": "same bytes as an earlier picture",
}
_UNREADABLE, _TRUNCATED, _GREY, _CMYK, _ROTATED, _COVERED, _TINY, _DUPLICATE = KINDS


@dataclass(frozen=True)
class PictureFacts:
    """One picture file.

    Attributes:
      name: as given.
      sha256: of its bytes, hexadecimal.
      format: Pillow's name of it; "" where the file is not a picture.
      mode: Pillow's, before conversion to RGB; "" where the file is not a picture.
      height: in pixels, as stored.
      width: in pixels, as stored.
      orientation: EXIF's, 1 to 8; 1 where there is none.
      alpha: whether pixels carry transparency.
      problem: why it cannot be decoded; "" if it can.
      truncated: whether the problem is that its end is missing.
    """

    name: str
    sha256: str
    format: str = ""
    mode: str = ""
    height: int = 0
    width: int = 0
    orientation: int = 1
    alpha: bool = False
    problem: str = ""
    truncated: bool = False

    def kinds(self) -> list[str]:
        """Those of `KINDS` that apply, but for duplicates, which depend on the other pictures."""
        if self.problem:
            return [_TRUNCATED if self.truncated else _UNREADABLE]
        tests = {
            _GREY: self.mode in _GREY_MODES or self.mode.startswith("I;16"),
            _CMYK: self.mode == "CMYK",
            _ROTATED: self.orientation != 1,
            _COVERED: self.alpha or self.mode in ("P", "PA"),
            _TINY: min(self.height, self.width) < TINY,
        }
        return [kind for kind, found in tests.items() if found]


@dataclass(frozen=True)
class PictureReport:
    """Unusual pictures among many.

    Attributes:
      facts: of every picture, in order.
      listed: for every kind in `KINDS`, names with details, where there are any.
    """

    facts: list[PictureFacts]
    listed: dict[str, list[tuple[str, str]]]

    def names(self, kind: str) -> list[str]:
        """The pictures of one kind."""
        return [name for name, _ in self.listed[kind]]


def inspect_picture(encoded: bytes, name: str) -> PictureFacts:
    """Decodes a picture and describes it; does not raise for a bad one."""
    digest = hashlib.sha256(encoded).hexdigest()
    try:
        with load(encoded, name) as picture:
            facts = PictureFacts(
                name=name,
                sha256=digest,
                format=picture.format or "",
                mode=picture.mode,
                height=picture.height,
                width=picture.width,
                orientation=_orientation(picture),
                alpha=picture.mode in _ALPHA_MODES or "transparency" in picture.info,
            )
            rgb(picture, name)
            return facts
    except PictureError as error:
        return PictureFacts(name, digest, problem=str(error), truncated=error.truncated)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture with damaged EXIF can still be used
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def inspect_pictures(pictures: Iterable[tuple[str, bytes]], total: int = 0) -> PictureReport:
    """Decodes all pictures, one after the other, and lists the unusual ones.

    Args:
      pictures: names and file contents; read lazily.
      total: how many there are, for the progress bar; 0 if not known.
    """
    listed: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    first: dict[str, str] = {}
    all_facts = []
    with progress(total, "decoding pictures", "picture", delay=2) as bar:
        for name, encoded in pictures:
            facts = inspect_picture(encoded, name)
            for kind in facts.kinds():
                listed[kind].append((name, _found(facts, kind)))
            original = first.setdefault(facts.sha256, name)
            if original != name:
                listed[_DUPLICATE].append((name, f"as {original}"))
            all_facts.append(facts)
            bar.update()
    return PictureReport(all_facts, listed)


def _found(facts: PictureFacts, kind: str) -> str:
    if facts.problem:  # the message begins with the name, which is listed already
        return facts.problem.removeprefix(f"{facts.name}: ")
    return {
        _ROTATED: f"orientation {facts.orientation}",
        _COVERED: f"{facts.format}, mode {facts.mode}",
        _TINY: f"{facts.width} x {facts.height}",
    }.get(kind, "")


def table(report: PictureReport, names: int = 5) -> str:
    """The report as text: every kind's count, and up to `names` of its pictures."""
    lines = [f"{len(report.facts)} pictures"]
    for kind, fate in KINDS.items():
        found = report.listed[kind]
        lines.append(f"  {kind:<20}{len(found):>8}" + (f"  {fate}" if found else ""))
        lines += [f"    {name}" + (f": {what}" if what else "") for name, what in found[:names]]
        if len(found) > names:
            lines.append(f"    and {len(found) - names} more")
    return "\n".join(lines)
