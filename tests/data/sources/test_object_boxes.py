"""aPY's objects, cut out of their pictures: a made-up tree in the published layout."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources import object_boxes
from dedn_jax.data.sources.benchmark import read_benchmark
from dedn_jax.errors import InputError
from tests.helpers.xlsa17 import BOXES, CLASSES, LABELS, write_apy

ANNOTATIONS = "APY/attribute_data"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def error(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_benchmark("APY", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(root: Path, file: str, line: int, old: str, new: str) -> Path:
    """Changes a line, counted from 1."""
    path = root / ANNOTATIONS / file
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_entry_is_its_object(tmp_path: Path) -> None:
    files = write_apy(tmp_path)
    found = read_benchmark("APY", tmp_path)
    assert found.name == "apy"
    assert len(found.pictures) == len(files) == 15
    assert [p.path for p in found.pictures] == files
    assert found.origins[-1] == (
        "boxes: 15, 2 of them clipped to their picture; 4 pictures show objects to train on and to "
        "test with"
    )
    for i, (picture, (left, top, right, bottom)) in enumerate(
        zip(found.pictures, BOXES, strict=True)
    ):
        whole = np.asarray(Image.open(files[i]))
        # The corners count from 1, and both are in the box.
        part = whole[max(top, 1) - 1 : bottom, max(left, 1) - 1 : right]
        data = picture.read()
        np.testing.assert_array_equal(pixels(data), part)
        assert (data == files[i].read_bytes()) == (i == 12)  # the whole picture is as it was
        assert len(data) < picture.size() + 4096
    names = [p.name for p in found.pictures]
    assert len(set(names)) == 15
    assert names[2:4] == [
        "VOCdevkit/VOC2008/JPEGImages/2008_000001.jpg#xywh=0,0,40,60",
        "VOCdevkit/VOC2008/JPEGImages/2008_000001.jpg#xywh=40,10,40,40",
    ]
    assert names[13:] == [
        "ayahoo_test_images/rat_13.jpg#xywh=0,0,50,60",
        "ayahoo_test_images/rat_14.jpg#xywh=20,0,60,40",
    ]
    np.testing.assert_array_equal(found.annotations.labels, LABELS - 1)


def test_a_prepared_set_holds_the_parts(tmp_path: Path) -> None:
    write_apy(tmp_path)
    found = read_benchmark("APY", tmp_path)
    folder, new = build(found, tmp_path / "out")
    assert new
    there = open_prepared(folder)
    for i in (0, 1, 13):
        data, name = there.pictures[i]
        assert name == found.pictures[i].name
        assert data == found.pictures[i].read()
    assert not build(read_benchmark("APY", tmp_path), tmp_path / "out").new
    # Another box is another set.
    edit(tmp_path, "apascal_train.txt", 1, " 1 1 40 60 ", " 1 1 39 60 ")
    with pytest.raises(InputError, match="holds another build of apy: pictures differ"):
        build(read_benchmark("APY", tmp_path), tmp_path / "out")


def test_a_box_without_a_usable_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No area; a strip that the decoder would refuse; beside the picture.
    boxes = [*BOXES[:12], (30, 20, 29, 40), (5, 1, 5, 60), (90, 70, 95, 75)]
    files = write_apy(tmp_path, boxes)
    monkeypatch.setattr(object_boxes, "MAX_ASPECT", 50)
    message = error(tmp_path)
    assert message.startswith(
        f"{tmp_path / ANNOTATIONS}/ayahoo_test.txt: line 1: box 30 20 29 40 has no usable part "
        "within rat_12.jpg, nor have 2 others of 15"
    )
    monkeypatch.setattr(object_boxes, "_PER_UNUSABLE", 5)
    found = read_benchmark("APY", tmp_path)
    for i in (12, 13, 14):
        assert found.pictures[i].read() == files[i].read_bytes()
        assert found.pictures[i].name == f"ayahoo_test_images/rat_{i}.jpg"
    assert found.origins[-1] == (
        "boxes: 15, 0 of them clipped to their picture; 3 without a usable part, whole picture "
        "taken: rat_12.jpg, rat_13.jpg, rat_14.jpg; 4 pictures show objects to train on and to "
        "test with"
    )


def test_a_damaged_picture_is_left_to_the_build(tmp_path: Path) -> None:
    files = write_apy(tmp_path)
    files[12].write_bytes(b"<html>not found</html>")
    picture = read_benchmark("APY", tmp_path).pictures[12]
    with pytest.raises(InputError, match=r"rat_12\.jpg: not a picture"):
        picture.read()


@pytest.mark.parametrize("file", ["apascal_train.txt", "apascal_test.txt", "ayahoo_test.txt"])
def test_a_missing_file(tmp_path: Path, file: str) -> None:
    write_apy(tmp_path)
    path = tmp_path / ANNOTATIONS / file
    path.unlink()
    message = error(tmp_path)
    assert message.startswith(f"{path}: no such file, and it holds the boxes")
    assert message.endswith(f"so that attribute_data/ is in {tmp_path / 'APY'}")
    os.mkfifo(path)
    assert error(tmp_path) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2008_000001.jpg", "2008_000009.jpg", "an object in '2008_000009.jpg', but entry 4 of"),
        ("grizzly+bear", "ox", "a 'ox', but entry 4 of res101.mat is a 'grizzly+bear'"),
        (
            "41 11 80 50",
            "41 11 80",
            "69 fields, beginning with '2008_000001.jpg grizzly+bear 41 11 80 0', expected 70",
        ),
        ("41 11", "41.5 11", "xmin, ymin, xmax, ymax (whole numbers)"),
        ("41 11", "41 9999999", "xmin, ymin, xmax, ymax (whole numbers)"),
        ("41 11", "nan inf", "xmin, ymin, xmax, ymax (whole numbers)"),
    ],
)
def test_lines_that_do_not_fit(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_apy(tmp_path)
    path = edit(tmp_path, "apascal_train.txt", 4, old, new)
    found = error(tmp_path)
    assert found.startswith(f"{path}: line 4: ")
    assert message in found


def test_names_spelt_in_another_way_are_fine(tmp_path: Path) -> None:
    write_apy(tmp_path)
    edit(tmp_path, "apascal_train.txt", 4, "grizzly+bear", "grizzly_bear")
    assert len(read_benchmark("APY", tmp_path).pictures) == 15


def test_files_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_apy(tmp_path)
    path = tmp_path / ANNOTATIONS / "apascal_test.txt"
    path.write_text("\n\n".join(path.read_text().splitlines()[:5]))
    assert error(tmp_path).startswith(
        f"{tmp_path / ANNOTATIONS}: 14 objects in apascal_train.txt, apascal_test.txt, "
        "ayahoo_test.txt, res101.mat has 15 entries"
    )
    path.write_bytes(b"\xff\xfe")
    assert f"{path}: not UTF-8 text" in error(tmp_path)
    monkeypatch.setattr(object_boxes, "_MAX_BYTES", 100)
    assert "expected at most 100" in error(tmp_path)


def test_without_class_names_pictures_are_compared(tmp_path: Path) -> None:
    write_apy(tmp_path)
    path = tmp_path / "xlsa17" / "data" / "APY" / "att_splits.mat"
    there = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    del there["allclasses_names"]
    scipy.io.savemat(path, there)
    found = read_benchmark("APY", tmp_path).annotations
    assert found.class_names[:2] == ("class 1", "class 2")
    assert len(CLASSES) == found.num_classes
