"""Decoding: every kind of picture against Pillow's own conversion, every kind of damage refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.pictures.decoding import FORMATS, MAX_PIXELS, PictureError, decode
from dedn_jax.errors import InputError

HEIGHT, WIDTH = 40, 56


def pixels(channels: int = 3) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and different in every channel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [4 * y + x, 255 - 5 * y, 3 * x + y, 127 + 2 * y - x]
    return np.clip(np.stack(planes[:channels], axis=-1), 0, 255).astype(np.uint8)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def cmyk() -> Image.Image:
    return Image.frombytes("CMYK", (WIDTH, HEIGHT), pixels(4).tobytes())


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(pixels()), "JPEG", exif=exif.tobytes())


def animation() -> bytes:
    frames = [Image.fromarray(pixels()), Image.fromarray(255 - pixels())]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


COLOUR = Image.fromarray(pixels())
GREY = COLOUR.convert("L")
PICTURES = {
    **{f"colour {kind}": encode(COLOUR, kind) for kind in FORMATS},
    "progressive": encode(COLOUR, "JPEG", progressive=True),
    "4:4:4": encode(COLOUR, "JPEG", subsampling=0),
    "grey JPEG": encode(GREY, "JPEG"),
    "grey PNG": encode(GREY, "PNG"),
    "black and white": encode(GREY.convert("1"), "PNG"),
    "grey and alpha": encode(GREY.convert("LA"), "PNG"),
    "CMYK, Adobe": encode(cmyk(), "JPEG"),
    "CMYK, no marker": without_adobe_marker(encode(cmyk(), "JPEG")),
    "CMYK TIFF": encode(cmyk(), "TIFF"),
    "orientation 6": rotated(6),
    "RGBA PNG": encode(Image.fromarray(pixels(4)), "PNG"),
    "RGBA WebP": encode(Image.fromarray(pixels(4)), "WEBP"),
    "palette": encode(COLOUR.quantize(16), "PNG"),
    "palette, one transparent": encode(COLOUR.quantize(16), "PNG", transparency=3),
    "one colour transparent": encode(COLOUR, "PNG", transparency=(0, 255, 0)),
    "animation": animation(),
    "compressed TIFF": encode(COLOUR, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_equals_pillow(kind):
    result = decode(PICTURES[kind], "a picture")
    assert result.dtype == np.uint8
    assert result.shape == (HEIGHT, WIDTH, 3)
    with Image.open(io.BytesIO(PICTURES[kind])) as picture:
        np.testing.assert_array_equal(result, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_keep_every_level(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decode(encode(COLOUR, kind, **options), "a picture")
    np.testing.assert_array_equal(result, pixels())


def test_cmyk_by_hand():
    cyan = Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0))
    tiff = decode(encode(cyan, "TIFF"), "a picture")
    np.testing.assert_array_equal(tiff, np.broadcast_to([0, 255, 255], tiff.shape))
    adobe = encode(cyan, "JPEG")  # stored inverted
    np.testing.assert_allclose(decode(adobe, "a picture"), tiff, atol=2)
    # Pillow takes Adobe's inversion for granted.
    unmarked = without_adobe_marker(adobe)
    np.testing.assert_array_equal(decode(unmarked, "a picture"), decode(adobe, "a picture"))


def test_colours_that_cannot_be_converted(monkeypatch):
    def fail(self, mode):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(
        InputError, match=r"^a\.jpg: colours of mode L cannot be converted to RGB; save it"
    ):
        decode(PICTURES["grey JPEG"], "a.jpg")


def test_orientation_is_not_applied():
    np.testing.assert_array_equal(decode(rotated(6), "a"), decode(rotated(1), "a"))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (3, lambda x: x[::-1, ::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (77, lambda x: x),  # no orientation at all
    ],
)
def test_upright(orientation, turn):
    encoded = rotated(orientation)
    np.testing.assert_array_equal(
        decode(encoded, "x.jpg", upright=True), turn(decode(encoded, "x.jpg"))
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_upper_half_of_sixteen_bits(kind):
    values = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH)).astype(np.uint16)
    result = decode(encode(Image.fromarray(values), kind), "a picture")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.repeat(values[..., None] >> 8, 3, axis=-1))


def test_palette_with_levels_of_transparency_does_not_warn():
    encoded = encode(COLOUR.quantize(16), "PNG", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(encoded, "a picture")
    np.testing.assert_array_equal(result, decode(PICTURES["palette"], "a picture"))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


JPEG = PICTURES["colour JPEG"]
REFUSED = {
    "no bytes": (b"", r"the file is empty \(0 bytes\)"),
    "text": (b"<!DOCTYPE html><html>404</html>", r"not a picture .*it is a web page"),
    "zeros": (bytes(1000), "not a picture in a supported format"),
    "another format": (encode(COLOUR, "PPM"), r"begins with b'P6\\n56 40\\n255'.*JPEG, PNG, WEBP"),
    "a header's beginning": (JPEG[:20], r"header .* damaged or truncated \(20 bytes in all\)"),
    "32-bit floats": (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "32 bits a s"),
    "32-bit integers": (encode(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "32 bits a s"),
    "a thin strip": (encode(Image.new("RGB", (2, 201)), "PNG"), "2 x 201 pixels, expected sides"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    encoded, message = REFUSED[kind]
    with pytest.raises(InputError, match=rf"^birds/001\.jpg: .*{message}") as caught:
        decode(encoded, "birds/001.jpg")
    assert "\n" not in str(caught.value)
    assert caught.value.truncated == (kind == "no bytes")


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "WEBP"])
def test_truncated(kind):
    encoded = PICTURES[f"colour {kind}"]
    with pytest.raises(
        PictureError, match=r"^a\.jpg: .*is truncated.*; fetch the file again$"
    ) as e:
        decode(encoded[: len(encoded) // 2], "a.jpg")
    assert e.value.truncated


@pytest.mark.parametrize("missing", [1, 2, 3, 10])
def test_end_of_jpeg_missing(missing):
    with pytest.raises(PictureError) as caught:
        decode(JPEG[:-missing], "a.jpg")
    assert caught.value.truncated


def test_zeros_in_place_of_the_end():
    noisy = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    encoded = encode(Image.fromarray(noisy), "JPEG")
    half = len(encoded) // 2
    with pytest.raises(PictureError, match="ends in zeros") as caught:
        decode(encoded[:half] + bytes(half), "a.jpg")
    assert caught.value.truncated
    decode(encoded + bytes(half), "a.jpg")  # whole, and only filled up


@pytest.mark.parametrize("caution", ["error", "ignore"])
@pytest.mark.parametrize("size", [(9000, 9000), (10000, 10000), (50000, 50000)], ids=str)
def test_decompression_bomb(size, caution):
    with warnings.catch_warnings():
        warnings.simplefilter(caution)
        with pytest.raises(InputError, match=r"^a\.png: too large .*pixels.*; scale it down"):
            decode(png_header(*size), "a.png")
    assert size[0] * size[1] > MAX_PIXELS


def test_largest_size_passes_pillow_without_warning():
    assert Image.MAX_IMAGE_PIXELS is None or Image.MAX_IMAGE_PIXELS > MAX_PIXELS


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_no_pixels(size):
    with pytest.raises(InputError, match=r"^a\.png: "):
        decode(png_header(*size), "a.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_damage_raises_nothing_else(kind):
    rng = np.random.default_rng(FORMATS.index(kind))
    messages = []
    for _ in range(150):
        damaged = bytearray(PICTURES[f"colour {kind}"])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(0, 256)
        try:
            decode(bytes(damaged[: rng.integers(1, 2 * len(damaged))]), "a.jpg")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(message.startswith("a.jpg: ") and "\n" not in message for message in messages)
