"""Contact sheets of a prepared data set: pictures of every class beside its attributes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.sheet import PICTURES, Row, draw_sheet
from dedn_jax.data.pictures.transforms import standard
from dedn_jax.data.prepared.reader import Prepared
from dedn_jax.errors import InputError
from dedn_jax.files import check_output, write_atomically
from dedn_jax.progress import progress

_ATTRIBUTES = 5
_CLASSES = 10  # on a page
_SIDE = 128  # pixels
_PAGE = re.compile(r"page-\d+\.png", re.ASCII)


def draw_contact_sheets(prepared: Prepared, folder: Path) -> list[Path]:
    """Draws all classes, ten a page: some pictures, the split, the strongest attributes.

    Args:
      prepared: the data set.
      folder: for `<name of the set>/page-01.png`, `page-02.png`, ...; made if missing. Pages of an
        earlier call that these do not replace are removed.

    Returns:
      The pages.

    Raises:
      InputError: a picture cannot be decoded, or the folder cannot be written to.
    """
    annotations = prepared.annotations
    pages = [
        range(first, min(first + _CLASSES, annotations.num_classes))
        for first in range(0, annotations.num_classes, _CLASSES)
    ]
    written = []
    folder = folder / prepared.name
    with progress(len(pages), "contact sheets", "page", delay=2) as bar:
        for number, classes in enumerate(pages, 1):
            path = folder / f"page-{number:0{len(str(len(pages)))}}.png"
            check_output(path, ".png")
            drawn = draw_sheet([_row(prepared, k) for k in classes])
            try:
                write_atomically(path, drawn)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written: {error.strerror}; choose another --out"
                ) from error
            written.append(path)
            bar.update()
    for path in folder.iterdir():
        if _PAGE.fullmatch(path.name) and path not in written and path.is_file():
            path.unlink()
    return written


class Strong(NamedTuple):
    """An attribute that marks a class.

    Attributes:
      name: of the attribute.
      value: of the class.
      excess: of the value over the mean of all classes.
    """

    name: str
    value: float
    excess: float


def strongest_attributes(annotations: Annotations, k: int) -> list[Strong]:
    """What marks class `k` most: the attributes furthest above their mean over all classes.

    Returns:
      Up to five, strongest first. Where nothing is above its mean, those of the highest values.
    """
    values = annotations.class_embeddings
    excess = values[k] - values.mean(axis=0)
    above = bool((excess > 0).any())
    order = np.argsort(-(excess if above else values[k]), kind="stable")[:_ATTRIBUTES]
    return [
        Strong(annotations.attribute_names[a], float(values[k, a]), float(excess[a]))
        for a in order.tolist()
        if excess[a] > 0 or not above
    ]


def class_role(annotations: Annotations, k: int) -> str:
    """`seen`, `seen, validation`, `unseen`, or what else class `k` is for."""
    if k in annotations.seen_classes:
        held = annotations.validation_classes
        return "seen, validation" if held is not None and k in held else "seen"
    return "unseen" if k in annotations.unseen_classes else "not used"


def _row(prepared: Prepared, k: int) -> Row:
    annotations = prepared.annotations
    images = np.flatnonzero(annotations.labels == k)
    facts = [f"{class_role(annotations, k)}, {len(images)} pictures"]
    strongest = strongest_attributes(annotations, k)
    facts += [f"{a.name} {a.value:.2f} ({a.excess:+.2f})" for a in strongest]
    # Spread over the class: the first ones often come from one photographer.
    count = min(len(images), PICTURES)
    chosen = images[np.unique(np.linspace(0, len(images) - 1, count).astype(int))]
    pictures = [standard(decode(*prepared.pictures[i]), _SIDE, _SIDE) for i in chosen.tolist()]
    return Row(annotations.class_names[k], pictures, facts)
