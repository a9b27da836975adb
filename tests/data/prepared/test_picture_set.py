"""Single pictures: read as they are, or turned upright; and what is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.prepared import picture_set
from dedn_jax.data.prepared.picture_set import Picture
from dedn_jax.errors import InputError

_ORIENTATION = 0x0112
# What undoes each orientation: EXIF 2.3, the tag's table.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def encoded(pixels: np.ndarray, format: str, orientation: int | None = None) -> bytes:
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x010F] = "a camera"
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    out = io.BytesIO()
    picture.save(out, format, exif=exif)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pictures_that_lie_on_their_side(orientation: int, format: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    data = encoded(image, format, orientation)
    assert Picture("a", encoded=data).read() == data
    upright = Picture("a", encoded=data, upright=True).read()
    np.testing.assert_array_equal(pixels(upright), TURNS[orientation](pixels(data)))
    if orientation == 1:
        assert upright == data
    else:
        assert upright.startswith(b"\x89PNG")
        assert not Image.open(io.BytesIO(upright)).getexif()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_turned_pictures_in_other_colours(mode: str) -> None:
    picture = Image.fromarray(np.zeros((4, 7, 3), np.uint8)).convert(mode)
    exif = picture.getexif()
    exif[_ORIENTATION] = 6
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    turned = Image.open(io.BytesIO(Picture("a", encoded=out.getvalue(), upright=True).read()))
    assert (turned.size, turned.mode) == ((4, 7), "L" if mode == "L" else "RGB")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_parts(mode: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    whole = Image.fromarray(image).convert(mode)
    out = io.BytesIO()
    whole.save(out, "TIFF" if mode == "CMYK" else "PNG")
    data = out.getvalue()
    part = Picture("a", encoded=data, box=(2, 1, 7, 4))
    assert part.size() == 3 * 5 * 3
    cut = Image.open(io.BytesIO(part.read()))
    assert (cut.format, cut.size) == ("PNG", (5, 3))
    expected = np.asarray(whole.convert("RGB"))[1:4, 2:7]
    np.testing.assert_array_equal(np.asarray(cut.convert("RGB")), expected)
    assert Picture("a", encoded=data, box=(0, 0, 9, 6)).read() == data


def test_a_part_is_of_the_pixels_as_stored() -> None:
    """EXIF orientation is ignored, and does not come along."""
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    data = Picture("a", encoded=encoded(image, "PNG", 6), box=(2, 1, 7, 4)).read()
    np.testing.assert_array_equal(pixels(data), image[1:4, 2:7])
    assert not Image.open(io.BytesIO(data)).getexif()
    with pytest.raises(ValueError, match="as stored"):
        Picture("a", encoded=data, upright=True, box=(0, 0, 1, 1))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 10, 6), (0, 0, 9, 7), (3, 3, 3, 5)])
def test_a_part_that_is_not_there(box: tuple[int, int, int, int]) -> None:
    data = encoded(np.zeros((6, 9, 3), np.uint8), "PNG")
    text = message(Picture("a", encoded=data, box=box))
    assert text.startswith(f"a: box {box} is not within the 9 x 6 pixels of the picture")
    assert "not a picture" in message(Picture("a", encoded=b"<html>", box=box))


def test_odd_orientations_are_left_alone() -> None:
    for data in (
        encoded(np.zeros((4, 7, 3), np.uint8), "JPEG"),
        encoded(np.zeros((4, 7, 3), np.uint8), "JPEG", 77),
    ):
        assert Picture("a", encoded=data, upright=True).read() == data


def message(picture: Picture) -> str:
    with pytest.raises(InputError) as caught:
        picture.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    assert "No such file" in message(Picture("a", path))
    with pytest.raises(InputError, match="No such file"):
        Picture("a", path).size()
    path.touch()
    assert f"{path}: is empty" in message(Picture("a", path))
    path.write_bytes(b"<html>not found</html>")
    assert Picture("a", path).read() == b"<html>not found</html>"
    assert f"{path}: not a picture in a supported format" in message(
        Picture("a", path, upright=True)
    )
    path.write_bytes(encoded(np.zeros((64, 64, 3), np.uint8), "JPEG", 6)[:-300])
    assert str(path) in message(Picture("a", path, upright=True))
    monkeypatch.setattr(picture_set, "MAX_PICTURE_BYTES", 10)
    smaller = "; store it smaller, or remove it"
    assert message(Picture("a", path)).endswith("expected at most 10 with a picture" + smaller)
    path.unlink()
    os.mkfifo(path)
    device = Path(os.devnull)
    for file, kind in ((path, "a pipe or socket"), (tmp_path, "a folder"), (device, "a device")):
        expected = f"{file}: {kind}, expected a regular file with a picture; give one"
        assert message(Picture("a", file)) == expected


def test_file_or_bytes() -> None:
    with pytest.raises(ValueError, match="either"):
        Picture("a")
    with pytest.raises(ValueError, match="either"):
        Picture("a", Path("a"), b"a")
