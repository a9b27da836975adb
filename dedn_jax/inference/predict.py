"""Predictions of any number of pictures: read ahead by threads, computed batch by batch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dedn_jax.data.pictures.pictures import PictureTransform
from dedn_jax.data.pipeline import read_ahead
from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.picture_files import PictureSource, read_pixels
from dedn_jax.inference.predictions import Predictions, best_classes
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.prediction import Mixing

# Given the name of a picture that cannot be used, and why.
Skip = Callable[[str, InputError], None]
_Batch = tuple[list[str], np.ndarray]


def refuse(_: str, error: InputError) -> None:
    """Ends at the first picture that cannot be used."""
    raise error


def predict(
    scorer: PictureScorer,
    sources: Sequence[PictureSource],
    candidates: Candidates,
    mixing: Mixing,
    *,
    top: int,
    skip: Skip = refuse,
) -> Iterator[Predictions]:
    """Predictions in the order of `sources`, a batch at a time.

    Memory does not grow with their number: two batches are read while one is computed.

    Args:
      scorer: of the run.
      sources: pictures.
      candidates: the classes.
      mixing: how branches and experts are mixed, and gamma.
      top: how many classes a picture.
      skip: called for a picture that cannot be used; it is left out unless this raises.

    Raises:
      InputError: `skip` did, or `top` is not a whole number of at least 1.
    """
    batches = _batches(sources, scorer.transform, scorer.batch_size, skip)
    for names, attributes in scorer.attributes_of_batches(batches):
        yield best_classes(candidates.scores(attributes), names, candidates, mixing, top)


def _batches(
    sources: Sequence[PictureSource], transform: PictureTransform, size: int, skip: Skip
) -> Iterator[_Batch]:
    """Names and pixels of the pictures that can be used."""
    names: list[str] = []
    pictures: list[np.ndarray] = []
    read = functools.partial(_read, transform)
    for i, found in enumerate(read_ahead(sources, read, 2 * size)):
        name = _name(i, sources[i])
        if isinstance(found, InputError):
            skip(name, found)
            continue
        names.append(name)
        pictures.append(found)
        if len(names) == size:
            yield names, np.stack(pictures)
            names, pictures = [], []
    if names:
        yield names, np.stack(pictures)


def _read(transform: PictureTransform, source: PictureSource) -> np.ndarray | InputError:
    try:
        return transform.evaluated(read_pixels(source))
    except InputError as error:
        return error


def _name(number: int, source: PictureSource) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else f"picture {number}"
