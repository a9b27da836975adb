"""Annotations with their pictures, before they are written as a prepared set."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.pictures.decoding import is_rotated, load, open_picture
from dedn_jax.data.prepared.reader import SET_NAME
from dedn_jax.errors import InputError
from dedn_jax.files import TooLargeError, read_regular

MAX_PICTURE_BYTES = 64 * 2**20
# The modes that a PNG can hold; a JPEG may be CMYK, which is converted to RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One encoded picture: either a file or bytes in memory.

    Attributes:
      name: relative path with `/`; identifies the picture, also in messages.
      path: the file.
      encoded: the bytes.
      upright: whether to apply the rotation in its EXIF data.
      box: left, top, right and bottom of the part to cut out, in pixels as stored, from 0; right
        and bottom are the first ones outside. None: all of it.
    """

    name: str
    path: Path | None = None
    encoded: bytes | None = None
    upright: bool = False
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.encoded is None):
            raise ValueError(f"{self.name}: give either path or encoded")
        if self.upright and self.box is not None:
            raise ValueError(f"{self.name}: a box counts the pixels as stored; give no upright")

    def size(self) -> int:
        """Bytes of the file or in memory; with a box, those of its pixels before compression.

        Raises:
          InputError: the file cannot be found.
        """
        if self.box is not None:
            left, top, right, bottom = self.box
            return 3 * (right - left) * (bottom - top)
        if self.path is None:
            return len(self.encoded or b"")
        return self._stat(self.path).st_size

    def stored(self) -> bytes:
        """The bytes of the file or in memory, unchecked.

        Raises:
          InputError: the file is missing, not a regular file, unreadable, or over 64 MiB.
        """
        return self.encoded or b"" if self.path is None else _read(self.path)

    def read(self) -> bytes:
        """The encoded picture; as stored, unless `upright` and rotated, or a part is cut out.

        Raises:
          InputError: as `stored`; it is empty; `upright` or with a box, and not a picture; or the
            box is not within it.
        """
        data = self.stored()
        if not data:
            raise InputError(f"{self.where}: is empty; fetch the picture again or remove it")
        if self.box is not None:
            return _cut_out(data, self.box, self.where)
        return _turned_upright(data, self.where) if self.upright else data

    @property
    def where(self) -> str:
        """What messages call it: its file, or its name."""
        return self.name if self.path is None else str(self.path)

    def _stat(self, path: Path) -> os.stat_result:
        try:
            return path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def as_set_name(text: str) -> str:
    """A folder's or data set's name as a set may be called."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:48]
    return name if name[:1].isalpha() else f"set_{name}".rstrip("_")


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """A data set of pictures.

    Attributes:
      name: of its folder once written: lower-case letters, digits and `_`.
      annotations: of all images.
      pictures: one per image, in the order of `annotations.labels`.
      origins: lines that say which files the word vectors and attribute names are from.
    """

    name: str
    annotations: Annotations
    pictures: Sequence[Picture]
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not SET_NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r}: not a name for a data set, expected a letter, then letters, "
                "digits and _, all lower case, at most 64"
            )
        if len(self.pictures) != len(self.annotations.labels):
            raise InputError(
                f"{self.annotations.source}: {len(self.pictures)} pictures for "
                f"{len(self.annotations.labels)} labels, expected one per label"
            )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_PICTURE_BYTES)
    except TooLargeError as error:
        raise InputError(f"{error} with a picture; store it smaller, or remove it") from error
    except InputError as error:
        raise InputError(f"{error} with a picture; give one") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _cut_out(data: bytes, box: tuple[int, int, int, int], where: str) -> bytes:
    """A PNG of the pixels in the box; the same bytes where it is the whole picture."""
    with load(data, where) as picture:
        left, top, right, bottom = box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            raise InputError(
                f"{where}: box {box} is not within the {picture.width} x {picture.height} pixels "
                "of the picture; was the file replaced by another?"
            )
        if box == (0, 0, *picture.size):
            return data
        return _png(picture.crop(box))


def _turned_upright(data: bytes, where: str) -> bytes:
    """The same bytes, or a PNG of the rotated pixels where EXIF gives an orientation."""
    with open_picture(data, where) as picture:
        if not is_rotated(picture, where):
            return data
    with load(data, where) as picture:
        return _png(ImageOps.exif_transpose(picture))


def _png(picture: Image.Image) -> bytes:
    """Lossless, in the picture's own mode if a PNG can hold it, else as RGB."""
    if picture.mode not in _PNG_MODES:
        picture = picture.convert("RGB")
    # Pixels only: a camera's metadata (place, owner) does not belong in a data set.
    picture.info = {k: v for k, v in picture.info.items() if k == "transparency"}
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
