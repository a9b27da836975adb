"""Contact sheets: the pages that are drawn, and what they say of a class."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.contact_sheet import (
    class_role,
    draw_contact_sheets,
    strongest_attributes,
)
from dedn_jax.data.prepared.reader import Prepared
from dedn_jax.errors import InputError

CLASSES = 12  # 0 to 8 are seen, 9 is unseen, 10 unseen without pictures, 11 not used
VALUES = np.asarray([[0, 1, 5, 2, 2, 9, 3], [4, 1, 1, 8, 0, 3, 3]], np.float32)


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (value, 200, 255 - value)).save(file, "JPEG")
    return file.getvalue()


def make_annotations() -> Annotations:
    labels = np.repeat(np.arange(10), [2, 3, 9, 2, 2, 2, 2, 2, 2, 4]).astype(np.int32)
    first = np.searchsorted(labels, np.arange(10))
    rng = np.random.default_rng(0)
    return Annotations(
        source="made up",
        labels=labels,
        class_embeddings=rng.random((CLASSES, 7), np.float32),
        word_vectors=np.eye(7, dtype=np.float32),
        trainval=np.setdiff1d(np.flatnonzero(labels < 9), first),
        test_seen=first[:9],
        test_unseen=np.flatnonzero(labels == 9),
        class_names=("$x_", *(f"a class of a rather long name, {k}" for k in range(1, CLASSES))),
        attribute_names=tuple("abcdefg"),
        validation_classes=np.asarray([4, 7]),
        unpictured_classes=np.asarray([10]),
    )


def make_prepared(folder: Path, broken: int | None = None) -> Prepared:
    annotations = make_annotations()
    files = [(jpeg(5 * i), f"{i}.jpg") for i in range(len(annotations.labels))]
    if broken is not None:
        files[broken] = (files[broken][0][:100], f"{broken}.jpg")
    return Prepared(folder, "made_up", annotations, "d" * 64, files)  # type: ignore[arg-type]


def test_pages(tmp_path: Path) -> None:
    out = tmp_path / "made" / "if missing"
    pages = draw_contact_sheets(make_prepared(tmp_path), out)
    assert pages == [out / "made_up" / "page-1.png", out / "made_up" / "page-2.png"]
    assert sorted(out.rglob("*.png")) == pages
    sizes = []
    for page in pages:
        with Image.open(page) as picture:
            picture.load()
            assert picture.format == "PNG"
            sizes += picture.size
            pixels = np.asarray(picture.convert("RGB"))
        assert 0.2 < (pixels == 255).all(axis=2).mean() < 0.995  # neither blank nor full
        assert 1000 < page.stat().st_size < 1_000_000
    # Ten rows, and two; matplotlib before 3.11 rounds down.
    assert sizes == pytest.approx([1200, 1500, 1200, 300], abs=1)


def test_pages_of_an_earlier_run_go(tmp_path: Path) -> None:
    folder = tmp_path / "made_up"
    folder.mkdir()
    names = ("page-01.png", "page-3.png", "page-1.jpg", "page-x.png", "thesis.png")
    for name in names:
        (folder / name).touch()
    (tmp_path / "page-1.png").touch()
    draw_contact_sheets(make_prepared(tmp_path), tmp_path)
    left = {"page-1.png", "page-2.png", *names[2:]}
    assert {p.name for p in folder.iterdir()} == left
    assert (tmp_path / "page-1.png").stat().st_size == 0


def test_all_pictures_of_a_small_class_and_six_of_a_large_one(tmp_path: Path) -> None:
    prepared = make_prepared(tmp_path)
    read: list[int] = []

    class Watched(list):
        def __getitem__(self, index: int) -> tuple[bytes, str]:  # type: ignore[override]
            read.append(index)
            return super().__getitem__(index)

    watched = dataclasses.replace(prepared, pictures=Watched(prepared.pictures))
    draw_contact_sheets(watched, tmp_path)
    labels = prepared.annotations.labels
    assert len(set(read)) == len(read)
    assert np.bincount(labels[read]).tolist() == [2, 3, 6, 2, 2, 2, 2, 2, 2, 4]
    of_the_large = [i for i in read if labels[i] == 2]
    assert (of_the_large[0], of_the_large[-1]) == (5, 13)  # spread over it


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^3\.jpg: "):
        draw_contact_sheets(make_prepared(tmp_path, broken=3), tmp_path / "out")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a writable folder") as caught:
        draw_contact_sheets(make_prepared(tmp_path), tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_strongest_attributes() -> None:
    annotations = make_annotations()
    values = np.full((CLASSES, 7), 1e-9, np.float32)  # of nothing, but not a class that is all 0
    values[:2] = VALUES
    annotations = dataclasses.replace(annotations, class_embeddings=values)
    # Excesses of class 0: a -1/3, b 5/6, c 4.5, d 7/6, e 11/6, f 8, g 2.5; five at most.
    expected = [("f", 9.0), ("c", 5.0), ("g", 3.0), ("e", 2.0), ("d", 2.0)]
    found = strongest_attributes(annotations, 0)
    assert [(a.name, a.value) for a in found] == expected
    np.testing.assert_allclose([a.excess for a in found], [8, 4.5, 2.5, 11 / 6, 7 / 6], rtol=1e-5)
    # f and g both have 3.0, but all classes together have more of f.
    assert [a.name for a in strongest_attributes(annotations, 1)] == ["d", "a", "g", "f", "b"]
    # Above the mean in nothing: what it has most of.
    values[5] = [-1, -2, 0.25, -3, -4, 0.5, 0.125]
    below = strongest_attributes(annotations, 5)
    assert [(a.name, a.value) for a in below[:3]] == [("f", 0.5), ("c", 0.25), ("g", 0.125)]
    assert len(below) == 5 and all(a.excess < 0 for a in below)
    values[5] = [-1, -1, -1, -1, -1, -1, 4]
    assert [(a.name, a.value) for a in strongest_attributes(annotations, 5)] == [("g", 4.0)]


def test_class_role() -> None:
    annotations = make_annotations()
    roles = [class_role(annotations, k) for k in range(CLASSES)]
    expected = ["seen"] * 9 + ["unseen", "unseen", "not used"]
    expected[4] = expected[7] = "seen, validation"
    assert roles == expected
    without = dataclasses.replace(annotations, validation_classes=None)
    assert class_role(without, 4) == "seen"
