"""Pictures to predict: files, bytes or arrays, and the files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dedn_jax.data.pictures.decoding import MAX_ASPECT, MAX_PIXELS, decode
from dedn_jax.data.pictures.finding import SUFFIXES, find_in_folder
from dedn_jax.data.prepared.picture_set import Picture
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

# A file's path or its content, or pixels.
PictureSource = str | os.PathLike[str] | bytes | UInt8[np.ndarray, "height width 3"]


def read_pixels(source: PictureSource) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture, turned upright as its EXIF data say.

    Args:
      source: a file's path or its content, or `[height, width, 3]` uint8 RGB pixels.

    Raises:
      InputError: not a picture, or one that cannot be used.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, bytes):
        return decode(source, "the picture", upright=True)
    path = local_path(source)
    return decode(Picture(str(path), path).stored(), str(path), upright=True)


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(
            f"a picture of shape {pixels.shape} and type {pixels.dtype}, expected [height, width, "
            "3] and uint8, RGB"
        )
    height, width, _ = pixels.shape
    if not min(height, width) or height * width > MAX_PIXELS:
        raise InputError(f"a picture of {width} x {height} pixels, expected 1 to {MAX_PIXELS}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(
            f"a picture of {width} x {height} pixels, expected sides that differ by a factor of "
            f"at most {MAX_ASPECT}"
        )
    return pixels


def as_sources(images: PictureSource | Sequence[PictureSource]) -> list[PictureSource]:
    """One picture or several, folders replaced by the pictures in them.

    Raises:
      InputError: there are none, or as `find_pictures`.
    """
    if isinstance(images, str | os.PathLike | bytes):
        return as_sources([images])
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    found: list[PictureSource] = []
    for image in images:
        if isinstance(image, str | os.PathLike):
            found += find_pictures([local_path(image)])
        else:
            found.append(image)
    if not found:
        raise InputError("no pictures, expected at least one")
    return found


def find_pictures(paths: Iterable[Path]) -> list[str]:
    """Files as they are given, and those of folders, as `find_in_folder`: recursively, sorted.

    Raises:
      InputError: no such file or folder, a folder that cannot be listed, or one without pictures.
    """
    found: list[str] = []
    for path in paths:
        if not path.is_dir():
            if not os.path.lexists(path):
                raise InputError(f"{path}: no such picture or folder; see to its name")
            found.append(str(path))
            continue
        inside = find_in_folder(path).pictures
        if not inside:
            raise InputError(
                f"{path}: no pictures in it, expected files that end in {', '.join(SUFFIXES)}"
            )
        found += map(str, inside)
    return found
