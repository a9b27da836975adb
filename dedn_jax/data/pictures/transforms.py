"""Resizing and cropping of pictures, uint8 `[height, width, 3]`, as torchvision does on PIL images.

Results may be views of the argument. Source: torchvision's `transforms.functional` and
`RandomResizedCrop.get_params`. Resizing is Pillow's antialiased bilinear one, bit for bit;
`torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on uint8 tensors, or on float
ones and rounded, differs from it by at most one level.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64
from PIL import Image

_TRIES = 10  # of torchvision, to find a random box inside of the picture


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, antialiased: `[height, width, 3]`."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_short_side(image: np.ndarray, size: int) -> np.ndarray:
    """The shorter side becomes `size` pixels, the longer one `int(size · long / short)`."""
    height, width = image.shape[:2]
    return resize(image, *_resized(height, width, size))


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    long = int(size * max(height, width) / min(height, width))
    return (size, long) if height <= width else (long, size)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle `[size, size, 3]`; where the picture is smaller, zeros are put around it."""
    height, width = image.shape[:2]
    if height < size or width < size:
        down, right = max(size - height, 0), max(size - width, 0)
        image = np.pad(
            image, ((down // 2, (down + 1) // 2), (right // 2, (right + 1) // 2), (0, 0))
        )
        height, width = image.shape[:2]
    top, left = _margin(height, size), _margin(width, size)
    return image[top : top + size, left : left + size]


def _margin(length: int, size: int) -> int:
    return round((length - size) / 2.0)  # half to even, as torchvision


def standard(image: np.ndarray, short_side: int, crop: int) -> np.ndarray:
    """What pictures pass through before a backbone at evaluation: `[crop, crop, 3]`.

    `resize_short_side` and `center_crop`. Resizing the middle alone would round its box to float32
    and change some pixels by a level.
    """
    return center_crop(resize_short_side(image, short_side), crop)


def standard_points(
    points: Float[np.ndarray, "points 2"], height: int, width: int, short_side: int, crop: int
) -> Float64[np.ndarray, "points 2"]:
    """Where points of a picture lie after `standard`, which may be outside of the crop.

    Args:
      points: x and y in pixels of the picture, from its left upper corner.
      height, width: of the picture.
      short_side, crop: as for `standard`.

    Returns:
      x and y in pixels of the crop.
    """
    tall, wide = _resized(height, width, short_side)
    # Where the picture is smaller than the crop, zeros stand around it.
    left, top = (
        _margin(length, crop) if length >= crop else -((crop - length) // 2)
        for length in (wide, tall)
    )
    return points * np.array([wide / width, tall / height]) - np.array([left, top])


def random_resized_crop(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    smallest_area: float,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random box of the picture, resized to `[size, size, 3]`.

    Args:
      image: `[height, width, 3]`.
      size: side of the result in pixels.
      rng: where the box comes from.
      smallest_area: least share of the picture's area in the box, in (0, 1]; the most is 1.
      ratio: least and greatest width / height of the box, drawn log-uniformly.
    """
    full_height, full_width = image.shape[:2]
    top, left, height, width = _random_box(full_height, full_width, rng, smallest_area, ratio)
    return resize(image[top : top + height, left : left + width], size, size)


def _random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    smallest_area: float,
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Top, left, height and width; after ten boxes that reach outside, the largest central one."""
    low, high = ratio
    for _ in range(_TRIES):
        area = height * width * rng.uniform(smallest_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < low:
        box_height = round(width / low)
    elif width / height > high:
        box_width = round(height * high)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def flip(image: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """The picture mirrored left to right with this probability, else as it is."""
    return image[:, ::-1] if rng.random() < probability else image
