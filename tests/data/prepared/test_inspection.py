"""What is said about a folder of pictures."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.prepared.inspection import KINDS, inspect_picture, inspect_pictures, table


def colour(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def encode(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


PLAIN = encode(colour())
GREY16 = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)
PICTURES = {
    "plain.jpg": PLAIN,
    "upright.jpg": encode(colour(seed=1), exif=orientation(1)),
    "other.webp": encode(colour(seed=2), "WEBP"),
    "text.jpg": b"<html>404</html>",
    "empty.jpg": b"",
    "half.jpg": PLAIN[: len(PLAIN) // 2],
    "grey.jpg": encode(colour().convert("L")),
    "deep.png": encode(Image.fromarray(GREY16), "PNG"),
    "cmyk.jpg": encode(colour().convert("CMYK")),
    "turned.jpg": encode(colour(), exif=orientation(6)),
    "turned_nonsense.jpg": encode(colour(seed=3), exif=orientation(77)),
    "palette.png": encode(colour().quantize(8), "PNG"),
    "alpha.png": encode(colour().convert("RGBA"), "PNG"),
    "grey_alpha.png": encode(colour().convert("LA"), "PNG"),
    "colour_key.png": encode(colour(), "PNG", transparency=(1, 2, 3)),
    "small.jpg": encode(colour(31, 60)),
    "just.jpg": encode(colour(32, 60)),
    "again.jpg": PLAIN,
    "float.tif": encode(Image.fromarray(np.ones((40, 60), np.float32)), "TIFF"),
}
LISTED = {
    "unreadable": ["text.jpg", "float.tif"],
    "truncated": ["empty.jpg", "half.jpg"],
    "greyscale": ["grey.jpg", "deep.png", "grey_alpha.png"],
    "CMYK": ["cmyk.jpg"],
    "EXIF-rotated": ["turned.jpg"],
    "palette or alpha": ["palette.png", "alpha.png", "grey_alpha.png", "colour_key.png"],
    "short side below 32": ["small.jpg"],
    "duplicates": ["again.jpg"],
}


def test_facts():
    facts = inspect_picture(PICTURES["turned.jpg"], "turned.jpg")
    assert (facts.name, facts.format, facts.mode) == ("turned.jpg", "JPEG", "RGB")
    assert (facts.height, facts.width, facts.orientation) == (40, 60, 6)  # as stored
    assert facts.sha256 == hashlib.sha256(PICTURES["turned.jpg"]).hexdigest()
    assert not facts.alpha
    assert facts.problem == ""
    assert facts.kinds() == ["EXIF-rotated"]


def test_facts_of_a_bad_picture():
    facts = inspect_picture(PICTURES["half.jpg"], "half.jpg")
    assert facts.problem.startswith("half.jpg: the picture is truncated (")
    assert facts.truncated
    assert facts.kinds() == ["truncated"]
    assert (facts.format, facts.mode, facts.height, facts.width) == ("", "", 0, 0)


def test_report():
    report = inspect_pictures(iter(PICTURES.items()), len(PICTURES))
    assert len(report.facts) == len(PICTURES) == 19
    assert list(report.listed) == list(KINDS)
    assert {kind: report.names(kind) for kind in KINDS} == LISTED
    assert report.listed["EXIF-rotated"] == [("turned.jpg", "orientation 6")]
    assert report.listed["short side below 32"] == [("small.jpg", "60 x 31")]
    assert report.listed["duplicates"] == [("again.jpg", "as plain.jpg")]
    assert report.listed["palette or alpha"][0] == ("palette.png", "PNG, mode P")
    assert report.listed["unreadable"][0][1].startswith(
        "not a picture in a supported format (it is a web page"
    )


def test_table():
    lines = table(inspect_pictures(PICTURES.items()), names=2).splitlines()
    assert lines[0] == "19 pictures"
    assert all(len(line) < 200 for line in lines)
    at = lines.index(f"  {'palette or alpha':<20}{4:>8}  become RGB, alpha is dropped")
    assert lines[at + 1 : at + 4] == [
        "    palette.png: PNG, mode P",
        "    alpha.png: PNG, mode RGBA",
        "    and 2 more",
    ]
    assert lines[-1] == "    again.jpg: as plain.jpg"
    counts = {line[2:22].strip(): int(line[22:30]) for line in lines[1:] if line[2] != " "}
    assert counts == {kind: len(names) for kind, names in LISTED.items()}


def test_nothing_unusual():
    report = inspect_pictures([("plain.jpg", PLAIN), ("just.jpg", PICTURES["just.jpg"])])
    assert all(not found for found in report.listed.values())
    lines = table(report).splitlines()
    assert lines[0] == "2 pictures"
    assert lines[1:] == [f"  {kind:<20}{0:>8}" for kind in KINDS]


def test_pictures_are_read_one_by_one():
    def broken():
        yield "plain.jpg", PLAIN
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        inspect_pictures(broken())


def test_all_cub40_pictures(shared_data):
    folder = shared_data / "cub40" / "CUB" / "CUB_200_2011" / "images"
    paths = sorted(folder.rglob("*.jpg"))
    if not paths:
        pytest.skip(f"no pictures in {folder}")
    report = inspect_pictures((p.name, p.read_bytes()) for p in paths)
    assert len(report.facts) == len(paths)
    assert all(not found for found in report.listed.values()), table(report)
