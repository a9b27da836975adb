"""CUB's annotated points and bounding boxes, read from its text files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines

_MAX_BYTES = 64 * 2**20  # CUB's largest, part_locs.txt, has 4.5 MB
_ADVICE = "give the parts folder of an unpacked CUB_200_2011.tgz"


@dataclasses.dataclass(frozen=True)
class PartAnnotations:
    """What is annotated of the pictures of CUB.

    Attributes:
      images: `class/file.jpg` to image id.
      points: of each image: name of a visible point to its x and y, in pixels of the picture.
      boxes: of each image: x, y, width and height of the bird's bounding box.
    """

    images: Mapping[str, int]
    points: Mapping[int, Mapping[str, tuple[float, float]]]
    boxes: Mapping[int, Float64[np.ndarray, " 4"]]


def read_parts(folder: Path) -> PartAnnotations:
    """Reads `parts.txt` and `part_locs.txt`, and `images.txt` and `bounding_boxes.txt` beside.

    Args:
      folder: `CUB_200_2011/parts`; the latter two files are in the folder that it is in.

    Raises:
      InputError: a file is missing, or a line is not as CUB's are.
    """
    names = {
        _whole(path, line, number): name.strip()
        for path, line, number, name in _lines(folder / "parts.txt", 2)
    }
    points: dict[int, dict[str, tuple[float, float]]] = {}
    for path, line, *cells in _lines(folder / "part_locs.txt", 5):
        image, part, visible = (_whole(path, line, cells[i]) for i in (0, 1, 4))
        if part not in names:
            raise InputError(
                f"{path}: line {line}: part {part} is not in parts.txt; do the files belong "
                "together?"
            )
        x, y = (_number(path, line, cell) for cell in cells[2:4])
        if visible:
            points.setdefault(image, {})[names[part]] = x, y
    root = folder.resolve().parent
    images = {
        name.strip(): _whole(path, line, number)
        for path, line, number, name in _lines(root / "images.txt", 2)
    }
    boxes = {
        _whole(path, line, image): np.array([_number(path, line, cell) for cell in box])
        for path, line, image, *box in _lines(root / "bounding_boxes.txt", 5)
    }
    return PartAnnotations(images, points, boxes)


def _lines(path: Path, cells: int) -> Iterator[tuple]:
    """The path, the line's number and its cells; the last cell may hold spaces."""
    lines = read_text_lines(path, _MAX_BYTES, _ADVICE)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = line.split(maxsplit=cells - 1)
        if len(found) != cells:
            raise InputError(
                f"{path}: line {number}: {line[:64]!r}, expected {cells} values; {_ADVICE}"
            )
        yield path, number, *found


def _whole(path: Path, line: int, text: str) -> int:
    value = _number(path, line, text)
    if value != int(value):
        raise InputError(f"{path}: line {line}: {text[:64]!r} is not a whole number; {_ADVICE}")
    return int(value)


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path}: line {line}: {text[:64]!r} is not a finite number; {_ADVICE}")
    return value
