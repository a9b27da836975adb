"""Whether every picture of a set can be decoded, and whether one is there under two classes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.inspection import PictureFacts, inspect_picture
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import SPLITS
from dedn_jax.data.repeats import in_splits, repeats
from dedn_jax.errors import InputError
from dedn_jax.progress import progress


def inspect_set(picture_set: PictureSet) -> list[PictureFacts | None]:
    """Reads and decodes every picture that is in a split; None stands for the others.

    What cannot be read at all is described as well, as what cannot be decoded.
    """
    used = in_splits(picture_set.annotations)
    pictures = [p if u else None for p, u in zip(picture_set.pictures, used, strict=True)]
    facts = []
    with (
        progress(int(used.sum()), "decoding pictures", "picture", delay=2) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,  # decoders release Python's lock
    ):
        for found in pool.map(lambda picture: picture and _inspect(picture), pictures):
            facts.append(found)
            bar.update(found is not None)
    return facts


def check_decodable(picture_set: PictureSet, facts: Sequence[PictureFacts | None]) -> None:
    """Raises InputError where a picture cannot be decoded.

    Args:
      picture_set: the set.
      facts: of its pictures.
    """
    broken = [found.problem for found in facts if found and found.problem]
    if not broken:
        return
    if len(broken) == 1:
        raise InputError(f"{broken[0]}; or leave it out with --skip-unreadable")
    used = sum(found is not None for found in facts)
    raise InputError(
        f"{picture_set.annotations.source}: {len(broken)} of {used} pictures cannot be decoded; "
        f"the first is {broken[0]}; --skip-unreadable lists them all and leaves them out"
    )


def without_unreadable(
    picture_set: PictureSet, facts: Sequence[PictureFacts | None]
) -> tuple[PictureSet, list[PictureFacts | None]]:
    """The set without the pictures that cannot be decoded, and the facts of those that are left.

    An unseen class that loses all its pictures is still a candidate.

    Args:
      picture_set: the set.
      facts: of its pictures.

    Raises:
      InputError: a seen class has no picture left to train on.
    """
    data = picture_set.annotations
    kept = np.array([not (found and found.problem) for found in facts])
    lost = np.setdiff1d(data.seen_classes, data.labels[data.trainval[kept[data.trainval]]])
    for k in lost.tolist():
        raise InputError(
            f"{data.source}: none of the training pictures of {data.class_names[k]!r} can be "
            "decoded; fetch them again, or take the class out of the set"
        )
    pictured = data.labels[data.test_unseen[kept[data.test_unseen]]]
    unpictured = np.setdiff1d(data.unseen_classes, pictured)
    kept &= ~np.isin(data.labels, unpictured)  # what is in no split is no picture of the class
    position = np.cumsum(kept) - 1
    splits = {name: getattr(data, name) for name in SPLITS}
    annotations = dataclasses.replace(
        data,
        labels=data.labels[kept],
        **{name: position[split[kept[split]]] for name, split in splits.items()},
        unpictured_classes=unpictured if len(unpictured) else None,
    )
    pictures = [p for p, keep in zip(picture_set.pictures, kept, strict=True) if keep]
    left = [found for found, keep in zip(facts, kept, strict=True) if keep]
    return dataclasses.replace(picture_set, annotations=annotations, pictures=pictures), left


def shared_pictures(annotations: Annotations, facts: Sequence[PictureFacts | None]) -> list[str]:
    """What is said of pictures with the same bytes that are of several classes, or train and test.

    Args:
      annotations: of all images.
      facts: of their pictures.
    """
    hashes = [found.sha256 if found else None for found in facts]
    names = [found.name if found else "" for found in facts]
    return repeats(annotations, hashes, names.__getitem__, "picture")


def _inspect(picture: Picture) -> PictureFacts:
    try:
        encoded = picture.read()
    except InputError as error:
        return PictureFacts(picture.name, "", problem=str(error))
    return inspect_picture(encoded, picture.where)
