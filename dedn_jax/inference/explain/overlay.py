"""Attention maps drawn over the picture that the model saw."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from matplotlib import colormaps
from PIL import Image

# Even in lightness, so safe for colour-blind readers; of those, what stands out most on grey.
COLOURS = colormaps["inferno"]
# How much of a pixel the colour takes, from the least to the most attention.
_OPACITY = (0.15, 0.75)
_BLACK = 48  # what the darkest grey becomes: the colours of little attention are dark too
_QUALITY = 88  # of JPEG files


class Scale(NamedTuple):
    """Attention as a multiple of what every region would have if all had the same."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Float[np.ndarray, "maps rows columns"]) -> Scale:
        """From the least to the most attention in several maps, for all of them."""
        regions = maps.shape[1] * maps.shape[2]
        return cls(float(maps.min()) * regions, float(maps.max()) * regions)


def overlay(
    picture: UInt8[np.ndarray, "side side 3"], grid: Float[np.ndarray, "rows columns"], scale: Scale
) -> UInt8[np.ndarray, "side side 3"]:
    """Attention over a picture in grey.

    Args:
      picture: as the model saw it.
      grid: attention of each region.
      scale: of the colours.
    """
    height, width = picture.shape[:2]
    span = max(scale.high - scale.low, float(np.finfo(np.float32).tiny))
    level = (upsample(grid * grid.size, height, width) - scale.low) / span
    level = level.clip(0, 1)[..., None]
    low, high = _OPACITY
    opacity = low + (high - low) * level
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float32)[..., None]
    grey = _BLACK + (1 - _BLACK / 255) * grey
    colour = COLOURS(level[..., 0])[..., :3].astype(np.float32) * 255
    return (opacity * colour + (1 - opacity) * grey).round().astype(np.uint8)


def upsample(
    grid: Float[np.ndarray, "rows columns"], height: int, width: int
) -> Float32[np.ndarray, "height width"]:
    """Bilinear, with a region's value at its centre; beyond the outer centres it is constant."""
    image = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def jpeg(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A JPEG file of pixels, without chroma subsampling, which would blur colours."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()
