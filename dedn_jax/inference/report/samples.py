"""Test pictures of unseen classes with what is predicted of them."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from dedn_jax.data.load import load_prepared, open_pictures
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.errors import InputError
from dedn_jax.inference.report.analysis import Analysis
from dedn_jax.training.run import TrainingRun

_CLASSES, _OF_EACH = 12, 2
_SIDE, _QUALITY = 160, 85


class Sample(NamedTuple):
    """A picture.

    Attributes:
      jpeg: a small copy.
      label, predicted: names of its class and of the one it is given.
      right: whether they are the same.
    """

    jpeg: bytes
    label: str
    predicted: str
    right: bool


def samples(run: TrainingRun, analysis: Analysis) -> list[Sample]:
    """Two pictures of up to twelve unseen classes; none where the run has no pictures at hand."""
    pictures = _pictures(run)
    if pictures is None:
        return []
    scores, names = analysis.scores, run.dataset.class_names
    found = []
    for k in np.unique(scores.labels[scores.unseen])[:_CLASSES]:
        for i in np.flatnonzero(scores.labels == k)[:_OF_EACH]:
            chosen = analysis.chosen[i]
            found.append(
                Sample(
                    _small(pictures.read(scores.images[i])),
                    names[scores.class_ids[k]],
                    names[scores.class_ids[chosen]],
                    bool(chosen == k),
                )
            )
    return found


def _pictures(run: TrainingRun) -> Pictures | None:
    if isinstance(run.dataset.inputs, Pictures):
        return run.dataset.inputs
    if run.config.data.format not in ("prepared", "demo"):
        return None
    try:
        return open_pictures(load_prepared(run.config), run.config)
    except InputError:  # the pictures have gone, the features are still here
        return None


def _small(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
