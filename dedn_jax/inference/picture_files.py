"""Pictures to predict: files, bytes or arrays, and the files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dedn_jax.data.arrays import as_array
from dedn_jax.data.pictures.decoding import MAX_ASPECT, MAX_PIXELS, decode, upright_pixels
from dedn_jax.data.pictures.finding import SUFFIXES, find_in_folder
from dedn_jax.data.prepared.picture_set import Picture
from dedn_jax.errors import InputError, check_type
from dedn_jax.paths import local_path

_Bytes = bytes | bytearray | memoryview
# A file's path or its content, a picture of Pillow, or pixels.
PictureSource = (
    str
    | os.PathLike[str]
    | _Bytes
    | Image.Image
    | UInt8[np.ndarray, "height width 3"]
    | UInt8[jax.Array, "height width 3"]
)


def read_pixels(source: PictureSource) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture, turned upright as its EXIF data say.

    Args:
      source: a file's path or its content, a picture of Pillow, or `[height, width, 3]` uint8 RGB
        pixels of NumPy or JAX.

    Raises:
      InputError: not a picture, or one that cannot be used.
    """
    _check_kind(source, "the picture")
    if isinstance(source, str | os.PathLike):
        path = local_path(source)
        return decode(Picture(str(path), path).stored(), str(path), upright=True)
    if isinstance(source, _Bytes):
        return decode(bytes(source), "the picture", upright=True)
    if isinstance(source, Image.Image):
        return upright_pixels(source, "the picture")
    return _checked(as_array(source, "the picture"))


def _check_kind(source: object, name: str) -> None:
    """Raises InputError unless it is of the types of `PictureSource`, or an array of another."""
    if not hasattr(source, "__array__"):
        expected = "a path, the content of a file as bytes, a picture of Pillow or uint8 pixels"
        check_type(name, source, str | os.PathLike | _Bytes | Image.Image, expected)


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        maps = "" if pixels.dtype == np.uint8 else "; feature maps go into `run.model`"
        raise InputError(
            f"a picture of shape {pixels.shape} and type {pixels.dtype}, expected [height, width, "
            f"3] and uint8, RGB{maps}"
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


def as_sources(images: PictureSource | Iterable[PictureSource]) -> list[PictureSource]:
    """One picture or several, folders replaced by the pictures in them.

    Raises:
      InputError: there are none, one is of a type that is no picture, or as `find_pictures`.
    """
    given: Any = images
    # An array of several pictures has four axes, one of paths has one.
    several = given.ndim in (1, 4) if hasattr(given, "__array__") else np.iterable(given)
    if isinstance(given, str | os.PathLike | _Bytes | Image.Image) or hasattr(given, "read"):
        several = False
    found: list[PictureSource] = []
    for number, image in enumerate(given if several else [given]):
        if isinstance(image, str | os.PathLike):
            found += find_pictures([local_path(image)])
        else:
            _check_kind(image, f"picture {number}")
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
