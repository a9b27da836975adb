"""Resizing and cropping of pictures, as torchvision does on PIL images.

Results may be views of the argument. Source: torchvision's `transforms.functional` and
`RandomResizedCrop.get_params`. Resizing is Pillow's antialiased bilinear one, bit for bit;
`torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on uint8 tensors, or on float
ones and rounded, differs from it by at most one level.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "height width 3"]

# Draws of a random box until one lies inside the picture, as in torchvision.
_TRIES = 10


def resize(image: Picture, height: int, width: int) -> Picture:
    """Bilinear, antialiased, to `[height, width, 3]`."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_short_side(image: Picture, size: int) -> Picture:
    """The shorter side becomes `size` pixels, the longer one `int(size · long / short)`."""
    height, width = image.shape[:2]
    return resize(image, *_resized(height, width, size))


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    long = int(size * max(height, width) / min(height, width))
    return (size, long) if height <= width else (long, size)


def center_crop(image: Picture, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The centre of the picture; one that is smaller is padded with zeros."""
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


def standard(image: Picture, short_side: int, crop: int) -> UInt8[np.ndarray, "crop crop 3"]:
    """The transform of evaluation: `resize_short_side`, then `center_crop`.

    Pillow could resize just the centre, but would round its box to float32, which changes some
    pixels by one level.
    """
    return center_crop(resize_short_side(image, short_side), crop)


def standard_points(
    points: Float[np.ndarray, "points 2"], height: int, width: int, short_side: int, crop: int
) -> Float64[np.ndarray, "points 2"]:
    """Where points of a picture lie after `standard`, which may be outside the crop.

    Args:
      points: x and y in pixels of the picture, from its upper left corner.
      height, width: of the picture.
      short_side, crop: as for `standard`.

    Returns:
      x and y in pixels of the crop.
    """
    tall, wide = _resized(height, width, short_side)
    # A picture smaller than the crop is padded with zeros.
    left, top = (
        _margin(length, crop) if length >= crop else -((crop - length) // 2)
        for length in (wide, tall)
    )
    return points * np.array([wide / width, tall / height]) - np.array([left, top])


def random_resized_crop(
    image: Picture,
    size: int,
    rng: np.random.Generator,
    *,
    smallest_area: float,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "size size 3"]:
    """A random box of the picture, resized to a square.

    Args:
      image: the picture.
      size: side of the result in pixels.
      rng: draws the box.
      smallest_area: of the box, as a fraction of the picture's area, in (0, 1]; the largest is 1.
      ratio: smallest and largest width / height of the box, drawn log-uniformly.
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
    """Top, left, height and width; after ten boxes that do not fit, the largest central one."""
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


def flip(image: Picture, rng: np.random.Generator, probability: float) -> Picture:
    """The picture, mirrored left to right with this probability."""
    return image[:, ::-1] if rng.random() < probability else image
