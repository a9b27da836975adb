"""Encoded pictures to RGB arrays."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import HEAD_BYTES, what_begins_so

# Formats of data sets of photographs. Pillow knows many more, some of which run other programs;
# none of those is ever tried.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Larger pictures are treated as decompression bombs; just below the size of which Pillow warns.
MAX_PIXELS = 80_000_000
# A strip thinner than this would become huge once its short side is resized.
MAX_ASPECT = 100
# What files in these formats begin with; BMP's two letters could begin a text as well.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# A broken download may leave the rest of its file as zeros, which a JPEG decoder takes for data.
_ZEROS = bytes(512)
_JPEG_END = b"\xff\xd9"
_ORIENTATION = 0x0112  # the EXIF tag


def begins_as_picture(head: bytes) -> bool:
    """Whether a file begins as those of `FORMATS` do, BMP excepted; of 12 bytes or more."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class PictureError(InputError):
    """A picture cannot be decoded.

    `truncated`: whether the file is incomplete, rather than otherwise damaged or not a picture.
    """

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


def decode(
    encoded: bytes, name: str, *, upright: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture file.

    Greyscale, palette, alpha and CMYK pictures are converted to RGB by Pillow's `convert("RGB")`
    (alpha is dropped, not composited); 16-bit samples keep their upper 8 bits; EXIF orientation is
    ignored, unless `upright`; animations give their first frame. Source: the published features
    were extracted from pictures read this way. Other decoders give the same pixels and save about a
    tenth of the time of decoding and resizing (`benchmarks/decoding.py`), too little for a
    dependency.

    Args:
      encoded: the file's content.
      name: of the picture, for error messages.
      upright: apply the EXIF orientation.

    Returns:
      RGB pixels, read-only.

    Raises:
      PictureError: not a picture of `FORMATS`, truncated, damaged, empty, or too large. Damage
        that libjpeg repairs, or in formats without checksums, goes unnoticed.
    """
    with load(encoded, name) as picture:
        turn = upright and is_rotated(picture, name)
        return rgb(ImageOps.exif_transpose(picture) if turn else picture, name)


def upright_pixels(picture: Image.Image, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture that Pillow holds, which stays as it is; as `decode`, upright.

    Raises:
      PictureError: Pillow cannot load it, as of a damaged file; it is too large, or its colours
        cannot be converted to RGB.
    """
    _check(picture, name)
    try:
        turned = ImageOps.exif_transpose(picture)  # a copy in any case
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise PictureError(
            f"{name}: Pillow cannot load it ({one_line(error)}); give one that it can"
        ) from error
    return rgb(turned, name)


def load(encoded: bytes, name: str) -> Image.Image:
    """The decoded picture in its own mode, with its metadata.

    Raises:
      PictureError: as `decode`.
    """
    picture = open_picture(encoded, name)
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        picture.close()
        raise _damaged(name, error) from error
    return picture


def open_picture(encoded: bytes, name: str) -> Image.Image:
    """The picture with its header read; no pixel is decoded.

    Raises:
      PictureError: as `decode`, for what the header shows.
    """
    picture = _open(encoded, name)
    try:
        _check(picture, name)
        if picture.format in ("JPEG", "MPO") and _ends_in_zeros(encoded):
            raise PictureError(
                f"{name}: the picture ends in zeros instead of its last rows; fetch the file again",
                truncated=True,
            )
    except PictureError:
        picture.close()
        raise
    return picture


def is_rotated(picture: Image.Image, name: str) -> bool:
    """Whether its EXIF orientation rotates or mirrors it.

    Raises:
      PictureError: its EXIF data are damaged.
    """
    try:
        return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except MemoryError:
        raise
    except Exception as error:  # damaged EXIF data make Pillow raise anything
        raise _damaged(name, error) from error


def _open(encoded: bytes, name: str) -> Image.Image:
    if not encoded:
        raise PictureError(f"{name}: the file is empty (0 bytes); fetch it again", truncated=True)
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, one_line(error)) from error
    except UnidentifiedImageError as error:
        if begins_as_picture(encoded):
            raise PictureError(
                f"{name}: the header of the picture is damaged or truncated ({len(encoded)} bytes "
                "in all); fetch the file again"
            ) from error
        raise PictureError(
            f"{name}: not a picture in a supported format ({_what_it_is(encoded)}), expected "
            f"{', '.join(FORMATS)}; convert or remove it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _what_it_is(encoded: bytes) -> str:
    if encoded[4:8] == b"ftyp":
        return f"it begins as {encoded[8:12].decode('ascii', 'replace').strip().upper()} does"
    return what_begins_so(encoded[:HEAD_BYTES]) or f"begins with {encoded[:12]!r}"


def _check(picture: Image.Image, name: str) -> None:
    """Checks the header, before any pixel is decoded."""
    width, height = picture.size
    if width < 1 or height < 1:
        raise PictureError(f"{name}: a picture of {width} x {height} pixels; remove it")
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels, expected at most {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(
            f"{name}: {width} x {height} pixels, expected sides that differ by a factor of at "
            f"most {MAX_ASPECT}; crop or remove it"
        )
    # PNG's 16-bit greyscale is mode "I" in older versions of Pillow.
    if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):
        raise PictureError(
            f"{name}: has 32 bits a sample, of which the range is unknown; save it with 8 bits"
        )


def _ends_in_zeros(jpeg: bytes) -> bool:
    return jpeg.endswith(_ZEROS) and not jpeg.rstrip(b"\0").endswith(_JPEG_END)


def rgb(picture: Image.Image, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a loaded picture, as `decode`.

    Raises:
      PictureError: its colours cannot be converted to RGB.
    """
    if picture.mode == "RGB":
        return np.asarray(picture)
    if picture.mode == "I" or picture.mode.startswith("I;16"):  # convert() would clip at 255
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    # Says only which pixels to blend, which RGB does not; Pillow would warn of its loss.
    picture.info.pop("transparency", None)
    try:
        return np.asarray(picture.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # whatever the colour management behind some modes raises
        raise PictureError(
            f"{name}: colours of mode {picture.mode} cannot be converted to RGB; save it as RGB"
        ) from error


def _too_large(name: str, found: str) -> PictureError:
    return PictureError(f"{name}: too large ({found}); scale it down or remove it")


def _damaged(name: str, error: Exception) -> PictureError:
    text = one_line(error)
    truncated = isinstance(error, EOFError) or "truncated" in text.lower()
    state = "truncated" if truncated else "damaged"
    return PictureError(
        f"{name}: the picture is {state} ({text}); fetch the file again", truncated=truncated
    )
