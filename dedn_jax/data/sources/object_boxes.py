"""The boxes of aPY's objects, from the annotation files that come with the pictures.

Farhadi et al., "Describing Objects by their Attributes" (CVPR 2009): one object a line, picture,
class, xmin, ymin, xmax, ymax and 64 attributes, in `apascal_train.txt`, `apascal_test.txt` and
`ayahoo_test.txt`. An entry of xlsa17's `res101.mat` is an object, and the entries are the lines of
the three files, in this order. Corners are pixels from 1 and belong to the box, as in Pascal VOC,
where aPascal's are from.

Some boxes of aYahoo reach over their picture's edge, and two have no area; other code clips the
former and takes the whole picture for the latter, and so does this module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dedn_jax.data.pictures.decoding import MAX_ASPECT, PictureError, open_picture
from dedn_jax.data.prepared.picture_set import Picture
from dedn_jax.data.sources.xlsa17 import Xlsa17
from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines
from dedn_jax.progress import progress

Box = tuple[int, int, int, int]  # left, top, right, bottom, as `Picture.box`

FOLDER = "attribute_data"
_FILES = ("apascal_train.txt", "apascal_test.txt", "ayahoo_test.txt")
_MAX_BYTES = 16 * 2**20  # the largest has about 1 MB
_CORNERS = slice(2, 6)
_FIELDS = 6 + 64  # picture, class, corners, attributes
_NUMBER = re.compile(r"-?\d{1,6}")
# Of how many boxes one may have no part that can be used; of the published ones 2 in 15,339.
_PER_UNUSABLE = 1000
_SHOWN = 3  # pictures that are named


class _Object(NamedTuple):
    """One line of an annotation file."""

    where: str  # file and line
    picture: str
    class_name: str
    box: Box


def object_pictures(folder: Path, data: Xlsa17) -> tuple[list[Picture], str]:
    """One picture for each entry of `res101.mat`, cut to the box of its object.

    A picture with several objects is there several times; its name says which part:
    `2008_000008.jpg#xywh=52,86,419,334` (W3C's media fragments).

    Args:
      folder: of the data set; the annotation files are in `attribute_data` below.
      data: of the data set, with its pictures, which are there.

    Returns:
      The pictures, and a line that says how many boxes were clipped or could not be used.

    Raises:
      InputError: an annotation file is missing or damaged, the lines are of other pictures or
        classes than the entries, or more than one box in a thousand cannot be used.
    """
    assert data.image_files is not None and data.labels is not None
    objects = _read_objects(folder / FOLDER)
    _check_same(objects, data, folder / FOLDER)
    sizes: dict[str, tuple[int, int] | None] = {}
    pictures: list[Picture] = []
    clipped, unusable = 0, []
    with progress(len(objects), "checking boxes", "object", delay=2) as bar:
        for found, file in zip(objects, data.image_files, strict=True):
            if file not in sizes:
                sizes[file] = _size(Picture(file, folder / file))
            size = sizes[file]
            box = found.box if size is None else _clip(found.box, size)
            if _usable(box):
                pictures.append(Picture(_part(file, box), folder / file, box=box))
                clipped += box != found.box
            else:
                pictures.append(Picture(file, folder / file))
                unusable.append(found)
            bar.update()
    _check_unusable(unusable, len(objects))
    unusable_pictures = [found.picture for found in unusable]
    return pictures, _summary(len(objects), clipped, unusable_pictures) + _shared(data)


def _shared(data: Xlsa17) -> str:
    """What is said of pictures with objects of both kinds: other parts of the same picture."""
    assert data.image_files is not None
    trained = {data.image_files[i] for i in data.trainval.tolist()}
    tested = {data.image_files[i] for i in (*data.test_seen.tolist(), *data.test_unseen.tolist())}
    both = len(trained & tested)
    return f"; {both} pictures show objects to train on and to test with" if both else ""


def _summary(boxes: int, clipped: int, unusable: list[str]) -> str:
    line = f"boxes: {boxes}, {clipped} of them clipped to their picture"
    if unusable:
        names = ", ".join(unusable[:_SHOWN]) + (", ..." if len(unusable) > _SHOWN else "")
        line += f"; {len(unusable)} without a usable part, whole picture taken: {names}"
    return line


def _read_objects(folder: Path) -> list[_Object]:
    return [found for file in _FILES for found in _read_file(folder / file)]


def _read_file(path: Path) -> list[_Object]:
    expected = "picture, class, xmin, ymin, xmax, ymax and attributes a line"
    if not path.is_file():  # nor is a pipe opened, which would wait for someone to write
        raise InputError(
            f"{path}: no such file, and it holds the boxes of the objects; unpack the archive of "
            f"attribute_data so that {path.parent.name}/ is in {path.parent.parent}"
        )
    lines = read_text_lines(path, _MAX_BYTES, f"expected {expected}")
    return [
        _parse(line.split(), f"{path}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse(fields: list[str], where: str) -> _Object:
    corners = fields[_CORNERS]
    if len(fields) != _FIELDS or not all(_NUMBER.fullmatch(field) for field in corners):
        text = " ".join(fields[: _CORNERS.stop])[:64]
        raise InputError(
            f"{where}: {len(fields)} fields, beginning with {text!r}, expected {_FIELDS}: picture, "
            "class, xmin, ymin, xmax, ymax (whole numbers) and attributes; unpack the file again"
        )
    left, top, right, bottom = map(int, corners)
    return _Object(where, fields[0], fields[1], (left - 1, top - 1, right, bottom))


def _check_same(objects: list[_Object], data: Xlsa17, folder: Path) -> None:
    """Raises InputError unless every line is of the entry's picture and class."""
    assert data.image_files is not None and data.labels is not None
    if len(objects) != len(data.image_files):
        raise InputError(
            f"{folder}: {len(objects)} objects in {', '.join(_FILES)}, res101.mat has "
            f"{len(data.image_files)} entries, expected one line for each; do they belong together?"
        )
    numbers = {name: k for k, name in enumerate(data.class_names)}
    for i, found in enumerate(objects):
        file, label = data.image_files[i], int(data.labels[i])
        if found.picture != file.rsplit("/", 1)[-1]:
            raise InputError(
                f"{found.where}: an object in {found.picture[:64]!r}, but entry {i + 1} of "
                f"res101.mat is {file}; do the files belong together?"
            )
        # Only a name of another class is wrong: names may be spelt in other ways.
        if numbers.get(found.class_name, label) != label:
            raise InputError(
                f"{found.where}: a {found.class_name[:64]!r}, but entry {i + 1} of res101.mat is a "
                f"{data.class_names[label]!r}; do the files belong together?"
            )


def _check_unusable(unusable: list[_Object], objects: int) -> None:
    if len(unusable) * _PER_UNUSABLE > objects:
        first = unusable[0]
        left, top, right, bottom = first.box
        raise InputError(
            f"{first.where}: box {left + 1} {top + 1} {right} {bottom} has no usable part within "
            f"{first.picture}, nor have {len(unusable) - 1} others of {objects}; are the pictures "
            "those that were annotated, in their own size?"
        )


def _size(picture: Picture) -> tuple[int, int] | None:
    """Width and height by the header; None where it cannot be read, which a build reports."""
    try:
        with open_picture(picture.stored(), picture.name) as opened:
            return opened.size
    except PictureError:
        return None


def _clip(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])


def _usable(box: Box) -> bool:
    """Whether the decoder would take the part: not empty, and no thin strip."""
    width, height = box[2] - box[0], box[3] - box[1]
    return min(width, height) > 0 and max(width, height) <= MAX_ASPECT * min(width, height)


def _part(file: str, box: Box) -> str:
    left, top, right, bottom = box
    return f"{file}#xywh={left},{top},{right - left},{bottom - top}"
