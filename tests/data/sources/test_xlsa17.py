"""The xlsa17 benchmark's files: the real ones, and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from dedn_jax.data.load import read_published_hdf5
from dedn_jax.data.published import PUBLISHED
from dedn_jax.data.sources.counts import counts_table
from dedn_jax.data.sources.xlsa17 import (
    read_xlsa17,
    relative_picture,
)
from dedn_jax.errors import InputError

# Five classes with three images each; 1-based: class k has images 3k-2 to 3k. Class 5 is unseen.
LABELS = np.repeat(np.arange(1, 6), 3)
SPLITS = {
    "trainval_loc": [1, 2, 4, 5, 7, 8, 11, 10],
    "test_seen_loc": [3, 6, 9, 12],
    "test_unseen_loc": [13, 14, 15],
}
NAMES = ["ox", "grizzly+bear", "bat", "cow", "rat"]
ATT = np.arange(15.0).reshape(3, 5)
DISK = "/BS/xian/work/data/Animals_with_Attributes2//JPEGImages/"
FILES = [f"{DISK}{NAMES[k - 1]}/{i}.jpg" for i, k in enumerate(LABELS, 1)]


def cells(strings: list[str]) -> np.ndarray:
    result = np.empty((len(strings), 1), object)
    result[:, 0] = strings
    return result


def write(tmp_path: Path, name: str = "AWA2", **changes: Any) -> Path:
    """Both files; `changes` by variable, None leaves it out."""
    splits = {"att": ATT, "original_att": ATT * 10, "allclasses_names": NAMES, **SPLITS}
    pictures = {"image_files": FILES, "labels": LABELS, "features": np.ones((4, 15))}
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    for key in changes:
        if key not in pictures:
            splits[key] = changes[key]
    pictures |= {k: v for k, v in changes.items() if k in pictures}
    for file, variables in (("att_splits.mat", splits), ("res101.mat", pictures)):
        stored = {}
        for key, value in variables.items():
            if isinstance(value, list) and value and isinstance(value[0], str):
                stored[key] = cells(value)
            elif value is not None:
                array = np.asarray(value)
                stored[key] = array[:, None] if array.ndim == 1 else array
        scipy.io.savemat(folder / file, stored)
    return tmp_path


def error(folder: Path, name: str = "AWA2") -> str:
    with pytest.raises(InputError) as caught:
        read_xlsa17(folder, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_both_files(tmp_path):
    data = read_xlsa17(write(tmp_path), "AWA2")
    assert data.labels is not None
    assert data.image_files is not None
    assert data.original_att is not None
    assert data.labels.dtype == np.int32
    np.testing.assert_array_equal(data.labels, np.repeat(np.arange(5), 3))
    assert data.trainval.dtype == np.int64
    assert data.trainval.tolist() == [0, 1, 3, 4, 6, 7, 10, 9]
    assert data.test_seen.tolist() == [2, 5, 8, 11]
    assert data.test_unseen.tolist() == [12, 13, 14]
    assert data.class_embeddings.dtype == np.float32
    assert data.class_embeddings.flags.c_contiguous
    np.testing.assert_array_equal(data.class_embeddings, ATT.T)
    np.testing.assert_array_equal(data.original_att, 10 * ATT.T)
    assert data.class_names == tuple(NAMES)
    assert data.image_files[3] == "Animals_with_Attributes2/JPEGImages/grizzly+bear/4.jpg"
    assert data.validation_classes is None


def test_optional_fields(tmp_path):
    folder = write(tmp_path, allclasses_names=None, original_att=None)
    data = read_xlsa17(folder, "AWA2")
    assert data.class_names == ("class 1", "class 2", "class 3", "class 4", "class 5")
    assert data.original_att is None
    (folder / "AWA2" / "res101.mat").unlink()
    data = read_xlsa17(folder, "AWA2")
    assert data.labels is None
    assert data.image_files is None
    assert data.trainval.tolist() == [0, 1, 3, 4, 6, 7, 10, 9]


@pytest.mark.parametrize("name", ["CUB", "SUN", "AWA2"])
def test_real_splits(shared_data, name):
    data = read_xlsa17(shared_data / "xlsa17" / "data", name)
    known = PUBLISHED[name]
    assert counts_table(data, name).splitlines()[0] == f"{name}: as published"
    assert data.class_embeddings.shape == (known.seen + known.unseen, known.attributes)
    assert data.labels is None
    assert data.validation_classes is None
    np.testing.assert_allclose(np.linalg.norm(data.class_embeddings, axis=1), 1, atol=1e-4)
    everything = np.concatenate([data.trainval, data.test_seen, data.test_unseen])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(everything)))
    first = {"CUB": "002.Laysan_Albatross", "SUN": "abbey", "AWA2": "antelope"}
    assert data.class_names[0] == first[name]


def test_cub_classes_are_not_in_the_order_of_their_numbers(shared_data):
    """A class's row is its column of att, not the number in its name."""
    cub = read_xlsa17(shared_data / "xlsa17" / "data", "CUB")
    cub40 = read_xlsa17(shared_data / "cub40" / "xlsa17" / "data", "CUB")
    assert cub.original_att is not None
    assert cub40.original_att is not None
    assert cub.class_names[150] == "001.Black_footed_Albatross"
    rows = [cub.class_names.index(name) for name in cub40.class_names]
    np.testing.assert_array_equal(cub.original_att[rows], cub40.original_att)


def test_cub40(shared_data):
    data = read_xlsa17(shared_data / "cub40" / "xlsa17" / "data", "CUB")
    assert data.labels is not None
    assert data.image_files is not None
    assert data.validation_classes is not None
    assert len(data.image_files) == 960
    sizes = [len(data.trainval), len(data.test_seen), len(data.test_unseen)]
    assert sizes == [600, 120, 240]
    assert data.validation_classes.tolist() == [3, 11, 17, 20, 21, 25, 27, 28]
    root = shared_data / "cub40" / "CUB"
    assert all((root / file).is_file() for file in data.image_files)
    assert data.image_files[0] == (
        "CUB_200_2011/images/010.Red_winged_Blackbird/Red_winged_Blackbird_0000.jpg"
    )
    table = [line.split() for line in counts_table(data, "CUB").splitlines()]
    assert table == [
        ["CUB:", "not", "the", "published", "splits"],
        ["trainval", "images", "600", "published", "7057"],
        ["test-seen", "images", "120", "published", "1764"],
        ["test-unseen", "images", "240", "published", "2967"],
        ["classes", "40", "published", "200"],
        ["attributes", "312"],
        ["seen", "classes", "30", "published", "150"],
        ["unseen", "classes", "10", "published", "50"],
    ]


def test_cub40_agrees_with_the_hdf5_file(shared_data):
    data = read_xlsa17(shared_data / "cub40" / "xlsa17" / "data", "CUB")
    file = read_published_hdf5(
        shared_data / "cub40" / "feature_map_mobilenet_CUB.hdf5", sizes_only=True
    )
    for field in ("labels", "trainval", "test_seen", "test_unseen", "class_embeddings"):
        np.testing.assert_array_equal(getattr(data, field), getattr(file, field))
    np.testing.assert_array_equal(data.validation_classes, file.validation_classes)


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        # The prefixes of the original files.
        (
            "CUB",
            "/BS/Deep_Fragments/work/MSc/CUB_200_2011/CUB_200_2011/images/001.A/a.jpg",
            "CUB_200_2011/images/001.A/a.jpg",
        ),
        (
            "SUN",
            "/BS/Deep_Fragments/work/MSc/data/SUN/images/a/airport/entrance/sun.jpg",
            "images/a/airport/entrance/sun.jpg",
        ),
        ("AWA2", DISK + "ox/ox_1.jpg", "Animals_with_Attributes2/JPEGImages/ox/ox_1.jpg"),
        ("AWA1", "/x/JPEGImages/ox/ox_1.jpg", "Animals_with_Attributes/JPEGImages/ox/ox_1.jpg"),
        (
            "APY",
            "/a/b/VOCdevkit/VOC2008/JPEGImages/2008_1.jpg",
            "VOCdevkit/VOC2008/JPEGImages/2008_1.jpg",
        ),
        ("APY", "/a/ayahoo_test_images/bag_5.jpg", "ayahoo_test_images/bag_5.jpg"),
        ("FLO", "/BS/data/Oxford102/jpg/image_06734.jpg", "jpg/image_06734.jpg"),
        # Other people's disks.
        ("CUB", "C:\\images\\CUB\\images\\001.A\\a.jpg", "CUB_200_2011/images/001.A/a.jpg"),
        ("CUB", "../../images/./001.A//a.jpg", "CUB_200_2011/images/001.A/a.jpg"),
        ("CUB", "images/a.jpg", "CUB_200_2011/images/a.jpg"),
        # Not to be told, or not to be trusted.
        ("CUB", "/data/001.A/a.jpg", None),
        ("CUB", "/data/images", None),
        ("CUB", "", None),
        ("CUB", "/images/../../etc/passwd", None),
        ("CUB", "\\images\\..\\..\\secret", None),
        ("CUB", "/images/a\0.jpg", None),
        ("CUB", "/images/a\x1b[2J.jpg", None),
    ],
)
def test_relative_picture(name, stored, expected):
    assert relative_picture(stored, PUBLISHED[name].picture_folders) == expected


def test_apy_repeats_pictures(tmp_path):
    files = [f"/data/VOC2008/JPEGImages/{i // 2}.jpg" for i in range(12)]
    files += [f"/data/ayahoo_test_images/bag_{i}.jpg" for i in range(3)]
    data = read_xlsa17(write(tmp_path, "APY", image_files=files), "APY")
    assert data.image_files is not None
    assert data.image_files[:2] == ("VOCdevkit/VOC2008/JPEGImages/0.jpg",) * 2


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (range(1, 7), range(7, 13), [2, 3]),
        (range(1, 10), [10], [3]),
        (range(1, 9), range(9, 13), None),  # class 3 in both
        (range(1, 10), range(10, 16), None),  # an unseen class
        (range(1, 10), [16], None),  # past the end
        (range(1, 10), [0], None),  # before the beginning
        (range(1, 10), [], None),
        (range(1, 10), None, None),
    ],
)
def test_validation_classes(tmp_path, train, val, expected):
    changes = {"train_loc": list(train), "val_loc": None if val is None else np.asarray(val)}
    held = read_xlsa17(write(tmp_path, **changes), "AWA2").validation_classes
    assert (None if held is None else held.tolist()) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_loc": range(1, 7), "val_unseen_loc": range(7, 13)}, [2, 3]),
        ({"train_loc": [], "val_loc": []}, [2]),  # empty, as in some copies: the list of names
        ({}, [2]),
        ({"train_loc": range(1, 7), "val_loc": range(7, 13)}, [2, 3]),  # fields go first
    ],
)
def test_validation_classes_of_other_fields_and_of_names(tmp_path, fields, expected):
    folder = write(tmp_path, **{name: list(value) for name, value in fields.items()})
    (folder / "AWA2" / "valclasses1.txt").write_text(f"{NAMES[2]}\r\n\n")
    held = read_xlsa17(folder, "AWA2").validation_classes
    assert held is not None and held.tolist() == expected


def changed(sequence: Any, at: int, value: Any) -> list[Any]:
    result = list(sequence)
    result[at] = value
    return result


@pytest.mark.parametrize(
    ("changes", "file", "message"),
    [
        ({"att": None}, "att_splits", "att is missing; the file holds original_att"),
        ({"att": NAMES}, "att_splits", "att holds strings, expected numbers"),
        ({"att": ATT.T}, "att_splits", "allclasses_names has 5 names, att has 3 classes"),
        ({"att": ATT.T}, "att_splits", "expected [attributes, classes]"),
        ({"att": np.where(ATT == 7, np.nan, ATT)}, "att_splits", "NaN or infinite"),
        ({"att": ATT[:, :4], "original_att": None}, "att_splits", "5 names, att has 4 classes"),
        ({"att": np.zeros((2, 2, 2))}, "att_splits", "att has shape (2, 2, 2)"),
        ({"original_att": ATT[:2]}, "att_splits", "original_att has shape (2, 5), att (3, 5)"),
        ({"allclasses_names": np.arange(5)}, "att_splits", "allclasses_names holds numbers"),
        ({"allclasses_names": [*NAMES[:4], "ox"]}, "att_splits", "holds 'ox' twice"),
        ({"trainval_loc": None}, "att_splits", "trainval_loc is missing"),
        ({"trainval_loc": NAMES}, "att_splits", "trainval_loc holds strings"),
        ({"trainval_loc": np.ones((2, 3))}, "att_splits", "trainval_loc has shape (2, 3)"),
        ({"trainval_loc": np.empty((0, 0))}, "att_splits", "trainval_loc has shape (0, 0)"),
        ({"trainval_loc": [1.5, 2]}, "att_splits", "trainval_loc holds values that are not whole"),
        ({"trainval_loc": [1, np.nan]}, "att_splits", "trainval_loc holds values that are not"),
        ({"trainval_loc": [1e300, 1]}, "att_splits", "trainval_loc holds values that are not"),
        (
            {k: np.asarray(v) - 1 for k, v in SPLITS.items()},
            "att_splits",
            "trainval_loc holds 0, but locations count from 1; they look 0-based: add 1",
        ),
        ({"trainval_loc": [-3, 1]}, "att_splits", "trainval_loc holds -3, but locations count"),
        (
            {"test_unseen_loc": [13, 14, 16]},
            "att_splits",
            "test_unseen_loc holds 16, but res101.mat has 15 images",
        ),
        ({"test_seen_loc": [3, 6, 6]}, "att_splits", "test_seen_loc holds an image more than once"),
        (
            {"test_seen_loc": [2, 3, 6]},
            "att_splits",
            "1 images are in both trainval_loc and test_seen_loc (first: 2)",
        ),
        (
            {"trainval_loc": [1, 4, 7, 10, 13], "test_unseen_loc": [14, 15]},
            "att_splits",
            "class 4 has images in both trainval_loc and test_unseen_loc",
        ),
        ({"trainval_loc": [1, 4, 7]}, "att_splits", "test_seen_loc holds class 3, which has no"),
        ({"labels": LABELS[:14]}, "res101", "14 labels for 15 image_files"),
        ({"labels": LABELS - 1}, "res101", "labels run from 0 to 4, expected 1 to 5"),
        ({"labels": LABELS - 1}, "res101", "they look 0-based: add 1"),
        ({"labels": LABELS + 1}, "res101", "labels run from 2 to 6, expected 1 to 5"),
        ({"labels": None}, "res101", "labels is missing; the file holds image_files, features"),
        ({"image_files": None}, "res101", "image_files is missing"),
        ({"image_files": np.arange(15)}, "res101", "image_files holds numbers"),
        (
            {"image_files": changed(FILES, 4, "/home/x/ox/1.jpg")},
            "res101",
            "image_files 5 is '/home/x/ox/1.jpg', expected a path with JPEGImages/ in it",
        ),
        (
            {"image_files": changed(FILES, 2, DISK + "../../../etc/passwd")},
            "res101",
            "expected a path with JPEGImages/ in it and no '..' after that",
        ),
        (
            {"image_files": changed(FILES, 4, FILES[3])},
            "res101",
            "image_files 4 and 5 are the same picture, Animals_with_Attributes2/JPEGImages/grizzly",
        ),
        (
            {"labels": changed(LABELS, 0, 2)},
            "res101",
            "lies in the folder of class 1 and has label 2; do att_splits.mat and res101.mat",
        ),
    ],
)
def test_broken_files(tmp_path, changes, file, message):
    text = error(write(tmp_path, **changes))
    assert text.startswith(str(tmp_path / "AWA2" / f"{file}.mat") + ": ")
    assert message in text


def test_locations_are_checked_without_labels(tmp_path):
    folder = write(tmp_path, test_seen_loc=[2, 3, 6])
    (folder / "AWA2" / "res101.mat").unlink()
    assert "1 images are in both trainval_loc and test_seen_loc" in error(folder)


def test_transposed_att_is_hinted_at(tmp_path):
    folder = write(tmp_path, att=ATT.T, original_att=ATT.T)
    assert "att looks transposed" in error(folder)


def test_unknown_name_and_missing_folder(tmp_path):
    assert "NAB/att_splits.mat: no such file" in error(tmp_path, "NAB")
    assert "att_splits.mat: no such file" in error(tmp_path, "SUN")


def test_damaged_pictures_file(tmp_path):
    path = write(tmp_path) / "AWA2" / "res101.mat"
    path.write_bytes(path.read_bytes()[:-100])
    assert "features is truncated" in error(tmp_path)
