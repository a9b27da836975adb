"""The demo set as a whole: pictures, labels, attributes and splits, kept on disk once drawn."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile

import numpy as np

from dedn_jax.data.demo import anatomy
from dedn_jax.data.demo.drawing import draw_creature
from dedn_jax.files import atomic_file

# Goes into the name of the cache file: raise it whenever the same seed gives other pictures.
_VERSION = 1
_TEST_SEEN_FRACTION = 0.25


@dataclasses.dataclass(frozen=True)
class DemoPictures:
    """A small generalized zero-shot data set: n pictures, K classes, A attributes.

    ``trainval``, ``test_seen`` and ``test_unseen`` are disjoint and cover all pictures. Pictures in
    ``trainval`` of the ``validation_classes`` are for model selection; training on all of
    ``trainval`` comes after it.
    """

    images: np.ndarray  # [n, height, width, 3] uint8
    labels: np.ndarray  # [n] int32
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attribute_groups: tuple[tuple[str, tuple[int, ...]], ...]
    class_embeddings: np.ndarray  # [K, A] float32
    word_vectors: np.ndarray  # [A, 300] float32
    trainval: np.ndarray  # int64 picture indices, as are the next two
    test_seen: np.ndarray
    test_unseen: np.ndarray
    validation_classes: np.ndarray  # int64 class ids, a subset of the seen classes


def demo_pictures(
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 96,
    images_per_class: int = 24,
) -> DemoPictures:
    """The demo set; the same arguments give the same pictures.

    Args:
        seed: of poses, light and backgrounds. Classes, attributes and splits do not depend on it.
        cache_dir: where drawn pictures are kept, made if missing; None draws every time. A file
            there that is damaged or does not fit is drawn again and replaced.
        image_size: height and width in pixels, 32 or more.
        images_per_class: 2 or more; of a seen class, a quarter (at least one) are test pictures.

    Raises:
        ValueError: an argument is out of its range.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("image_size", image_size, 32),
        ("images_per_class", images_per_class, 2),
    ):
        if value < least:
            raise ValueError(f"demo_pictures: {name} is {value}; expected {least} or more")

    images = _cached_images(seed, cache_dir, image_size, images_per_class)
    classes = len(anatomy.CLASSES)
    labels = np.repeat(np.arange(classes, dtype=np.int32), images_per_class)
    number = np.tile(np.arange(images_per_class), classes)  # of a picture within its class
    seen = np.isin(labels, anatomy.SEEN_CLASSES)
    # Pictures of a class are independent draws, so taking its last ones is a random split.
    held_out = number >= images_per_class - max(1, round(images_per_class * _TEST_SEEN_FRACTION))
    return DemoPictures(
        images=images,
        labels=labels,
        class_names=anatomy.class_names(),
        attribute_names=anatomy.attribute_names(),
        attribute_groups=anatomy.attribute_groups(),
        class_embeddings=anatomy.class_embeddings(),
        word_vectors=anatomy.word_vectors(),
        trainval=np.flatnonzero(seen & ~held_out).astype(np.int64),
        test_seen=np.flatnonzero(seen & held_out).astype(np.int64),
        test_unseen=np.flatnonzero(~seen).astype(np.int64),
        validation_classes=anatomy.VALIDATION_CLASSES.copy(),
    )


def _draw_images(seed: int, image_size: int, images_per_class: int) -> np.ndarray:
    # Each picture has a generator of its own: a smaller set is a subset of a larger one.
    return np.stack(
        [
            draw_creature(traits, np.random.default_rng([seed, label, number]), image_size)
            for label, traits in enumerate(anatomy.CLASSES)
            for number in range(images_per_class)
        ]
    )


def _cached_images(
    seed: int, cache_dir: str | os.PathLike[str] | None, image_size: int, images_per_class: int
) -> np.ndarray:
    if cache_dir is None:
        return _draw_images(seed, image_size, images_per_class)
    name = f"demo-v{_VERSION}-seed{seed}-{image_size}px-{images_per_class}.npz"
    path = pathlib.Path(cache_dir) / name
    shape = (len(anatomy.CLASSES) * images_per_class, image_size, image_size, 3)
    images = _load(path, shape)
    if images is None:
        images = _draw_images(seed, image_size, images_per_class)
        # Of two processes drawing at the same time the last one wins, with equal bytes.
        with atomic_file(path) as file:
            np.savez(file, images=images)
    return images


def _load(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pictures in a cache file, or None where it is missing, damaged or of another shape."""
    try:
        # Reading a zip member checks its CRC, so damage anywhere in the pixels is noticed.
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None
