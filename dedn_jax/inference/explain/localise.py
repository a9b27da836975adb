"""Measures where a run looks on pictures of CUB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import numpy as np

from dedn_jax.data.pictures.transforms import standard_points
from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.explain.localisation import (
    Localisation,
    Localiser,
    attribute_families,
)
from dedn_jax.inference.explain.part_files import PartAnnotations, read_parts
from dedn_jax.inference.picture_files import find_pictures, read_pixels
from dedn_jax.inference.picture_progress import PictureProgress
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.run import TrainingRun

_MOST = 16  # pictures at a time: the attention of one may take megabytes


def localise_run(
    run: TrainingRun, candidates: Candidates, parts: Path, pictures: Sequence[Path] = ()
) -> tuple[Localisation, int]:
    """Measures a run on pictures of CUB.

    Pictures that cannot be used are named on standard error and skipped.

    Args:
      run: a finished run.
      candidates: its classes; their attributes are named as CUB's.
      parts: `CUB_200_2011/parts`.
      pictures: files and folders; none: the pictures of the run's unseen classes in
        `CUB_200_2011/images`.

    Returns:
      The shares, and how many pictures were skipped.

    Raises:
      InputError: the run or its backbone cannot be used, attributes that are not CUB's, or files or
        pictures that do not belong together.
    """
    names = candidates.attribute_names
    attribute_families(names)  # names that are not CUB's show before seconds of work
    annotations = read_parts(parts)
    if pictures:
        files = find_pictures(pictures)
    else:
        images = parts.resolve().parent / "images"
        files = pictures_of_unseen_classes(images, candidates)
    scorer = PictureScorer(run)
    with PictureProgress(len(files), "localising") as bar:
        found = localise(scorer, annotations, names, files, skip=bar.skip, advance=bar.update)
    return found, len(bar.skipped)


def localise(
    scorer: PictureScorer,
    annotations: PartAnnotations,
    attribute_names: Sequence[str],
    paths: Sequence[str],
    *,
    skip: Callable[[str, InputError], object],
    advance: Callable[[int], object],
) -> Localisation:
    """How often the region attention of each expert peaks at the part that an attribute is of.

    Args:
      scorer: of the run.
      annotations: of CUB.
      attribute_names: in the data set's order.
      paths: of pictures, which end as in `images.txt`: `class/file.jpg`.
      skip: called for a picture that cannot be read, which is left out unless this raises.
      advance: called with the number of pictures that were looked at.

    Raises:
      InputError: attributes that are not CUB's, or a picture without annotations.
    """
    side = scorer.transform.crop
    localiser = Localiser(attribute_names, scorer.grid, side)
    ids = [_image_id(path, annotations) for path in paths]
    size = min(scorer.batch_size, _MOST)
    for start in range(0, len(paths), size):
        pictures, places = [], []
        for path, image in zip(paths[start:][:size], ids[start:], strict=False):
            try:
                pixels = read_pixels(path)
            except InputError as error:
                skip(path, error)
                continue
            pictures.append(scorer.transform.evaluated(pixels))
            places.append(_placed(annotations, image, pixels.shape[:2], scorer))
        if not pictures:
            continue
        scores, weights = scorer.attention(np.stack(pictures))
        for row, (points, bird) in enumerate(places):
            of_scores = np.stack([expert.region[row] for expert in scores])
            maps = np.stack([expert.maps(scorer.grid)[row] for expert in weights])
            localiser.add(of_scores, maps.reshape(*maps.shape[:2], -1), points, bird)
        advance(len(pictures))
    return localiser.result()


def pictures_of_unseen_classes(folder: Path, candidates: Candidates) -> list[str]:
    """The pictures of a run's unseen classes in CUB's `images`, as APN is measured on.

    Raises:
      InputError: a class has no folder there, or one without pictures.
    """
    names = candidates.only("unseen").names
    for name in names:
        if PurePath(name).name != name or not (folder / name).is_dir():
            raise InputError(
                f"{folder}: no folder of the unseen class {name!r}; name pictures or folders to "
                "measure on"
            )
    return find_pictures([folder / name for name in names])


def _image_id(path: str, annotations: PartAnnotations) -> int:
    name = "/".join(Path(path).absolute().parts[-2:])
    image = annotations.images.get(name)
    if image is None or image not in annotations.boxes:
        raise InputError(
            f"{path}: {name!r} is not annotated in CUB's images.txt and bounding_boxes.txt; give "
            "pictures of CUB_200_2011/images"
        )
    return image


def _placed(
    annotations: PartAnnotations, image: int, size: tuple[int, ...], scorer: PictureScorer
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Annotated points and corners of the bird's box, in pixels of what the model sees."""
    x, y, width, height = annotations.boxes[image]
    points = annotations.points.get(image, {})
    corners = [(x, y), (x + width, y + height)]
    tall, wide = size
    transform = scorer.transform
    placed = standard_points(
        np.array([*corners, *points.values()]), tall, wide, transform.resize, transform.crop
    )
    return dict(zip(points, placed[2:], strict=True)), placed[:2].ravel()
