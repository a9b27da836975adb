"""The demo set as a whole: pictures, labels, attributes and splits."""

from __future__ import annotations

import dataclasses

import numpy as np

from dedn_jax.demo import anatomy
from dedn_jax.demo.drawing import draw_creature

_TEST_SEEN_FRACTION = 0.25


@dataclasses.dataclass(frozen=True)
class DemoPictures:
    """A small generalized zero-shot data set: n pictures, K classes, A attributes.

    ``trainval``, ``test_seen`` and ``test_unseen`` are disjoint and cover all pictures. Models
    are selected on the pictures in ``trainval`` of the ``validation_classes``, then trained on all
    of ``trainval``.
    """

    images: np.ndarray  # [n, height, width, 3] uint8
    labels: np.ndarray  # [n] int32
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attribute_groups: tuple[tuple[str, tuple[int, ...]], ...]
    class_embeddings: np.ndarray  # [K, A] float32
    attribute_words: tuple[tuple[str, ...], ...]  # of each attribute's name
    trainval: np.ndarray  # int64 picture indices, as are the next two
    test_seen: np.ndarray
    test_unseen: np.ndarray
    validation_classes: np.ndarray  # int64 class ids, a subset of the seen classes


def demo_pictures(
    seed: int = 0,
    *,
    image_size: int = 96,
    images_per_class: int = 24,
) -> DemoPictures:
    """The demo set; the same arguments give the same pictures.

    Args:
        seed: of poses, light and backgrounds. Classes, attributes and splits do not depend on it.
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

    images = _draw_images(seed, image_size, images_per_class)
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
        attribute_words=anatomy.attribute_words(),
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
