"""Annotations on disk: what comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.annotations_file import ANNOTATIONS_FILE, load_annotations, save_annotations
from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups

PLAIN = Annotations(
    source="a test",
    labels=np.asarray([0, 0, 1, 1, 2], np.int32),
    class_embeddings=np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    word_vectors=np.linspace(0, 5, 6, dtype=np.float32).reshape(3, 2),
    trainval=np.asarray([2, 0]),
    test_seen=np.asarray([3, 1]),
    test_unseen=np.asarray([4]),
    class_names=("ox", "Küken", "bat", "rat"),
    attribute_names=("has::fur", "legs, many", "size"),
)
FULL = dataclasses.replace(
    PLAIN,
    validation_classes=np.asarray([1]),
    groups=AttributeGroups(("body", "legs"), ((0, 2), (1,))),
    unpictured_classes=np.asarray([3]),
)
ONLY_UNPICTURED = dataclasses.replace(
    PLAIN,
    labels=PLAIN.labels[:4],
    test_unseen=np.zeros(0, np.int64),
    unpictured_classes=np.asarray([2, 3]),
)


def same(a: Annotations, b: Annotations) -> None:
    for field in dataclasses.fields(Annotations):
        if field.name == "source":
            continue
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("annotations", [PLAIN, FULL, ONLY_UNPICTURED])
def test_round_trip(tmp_path: Path, annotations: Annotations) -> None:
    save_annotations(tmp_path, annotations)
    read = load_annotations(tmp_path)
    same(read, annotations)
    assert read.source == str(tmp_path)
    assert load_annotations(tmp_path, "elsewhere").source == "elsewhere"
    assert [p.name for p in tmp_path.iterdir()] == [ANNOTATIONS_FILE]


def test_equal_annotations_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_annotations(tmp_path / "a", FULL)
    copy = dataclasses.replace(load_annotations(tmp_path / "a"), source="another machine")
    save_annotations(tmp_path / "b", copy)
    one, other = ((tmp_path / f / ANNOTATIONS_FILE).read_bytes() for f in "ab")
    assert one == other


def rewrite(folder: Path, **changes: np.ndarray | bytes | None) -> None:
    """Replaces members of the archive: by an array, by bytes, or by nothing."""
    path = folder / ANNOTATIONS_FILE
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for field, value in changes.items():
        if value is None:
            del members[f"{field}.npy"]
            continue
        if isinstance(value, np.ndarray):
            stream = io.BytesIO()
            np.save(stream, value, allow_pickle=True)
            value = stream.getvalue()
        members[f"{field}.npy"] = value
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def text(**changes: object) -> np.ndarray:
    value = {
        "class_names": PLAIN.class_names,
        "attribute_names": PLAIN.attribute_names,
        "groups": None,
    }
    return np.frombuffer(json.dumps(value | changes).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": None}, "labels"),
        ({"text": None}, "text"),
        ({"labels": PLAIN.labels.astype(np.int64)}, "labels has type int64, expected int32"),
        ({"class_embeddings": PLAIN.class_embeddings.astype(float)}, "has type float64"),
        ({"trainval": PLAIN.trainval.astype(np.int32)}, "trainval has type int32"),
        ({"validation_classes": np.asarray([1.0])}, "validation_classes has type float64"),
        ({"labels": np.asarray([print] * 5, object)}, "an array of Python objects"),
        ({"word_vectors": pickle.dumps(PLAIN.word_vectors)}, "is damaged"),
        ({"test_seen": b"\x93NUMPY"}, "is damaged"),
        ({"text": np.frombuffer(b"{", np.uint8)}, "is damaged"),
        ({"text": np.frombuffer(b"[]", np.uint8)}, "is damaged"),
        ({"text": text(class_names=None)}, "is damaged"),
        ({"text": text(groups=[])}, "groups cover 0 attributes of 3"),
        ({"text": text(groups=[["all", ["x"]]])}, "is damaged"),
        ({"text": text(groups=[["all", [0, 1]]])}, "groups cover 2 attributes of 3"),
        ({"text": text(class_names=["ox"])}, "1 class names"),
        ({"labels": PLAIN.labels + np.int32(2)}, "labels run from 2 to 4, expected 0 to 3"),
        ({"test_seen": np.asarray([2, 1])}, "in both trainval_loc and test_seen_loc"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict, expected: str) -> None:
    save_annotations(tmp_path, PLAIN)
    rewrite(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_annotations(tmp_path)
    message = str(caught.value)
    assert expected in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_annotations(tmp_path)
    save_annotations(tmp_path, FULL)
    path = tmp_path / ANNOTATIONS_FILE
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for damaged in (b"", whole[:-30], whole[:middle], pickle.dumps([1]), flipped):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            load_annotations(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="a folder, expected a regular file"):
        load_annotations(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.int32(3)}, r"labels has shape \(\)"),
        ({"class_embeddings": np.float32(3)}, r"att has shape \(\), expected two dimensions"),
        ({"word_vectors": np.ones(5, np.float32)}, r"w2v_att has shape \(5,\)"),
        ({"trainval": np.int64(3)}, r"trainval_loc has shape \(\)"),
        ({"validation_classes": np.int64(0)}, r"validation_classes has shape \(\)"),
        ({"validation_classes": np.array([2**40])}, "validation_classes names class"),
        ({"unpictured_classes": np.array([-1])}, "unpictured_classes names class -1"),
        ({"unpictured_classes": np.zeros((2, 2), np.int64)}, "unpictured_classes has shape"),
        ({"text": np.frombuffer(b"[" * 10**5, np.uint8)}, "levels deep"),
        ({"text": np.frombuffer(b"[]", np.uint8)}, "expected an object"),
    ],
)
def test_arrays_of_other_shapes(tmp_path: Path, change: dict, message: str) -> None:
    save_annotations(tmp_path, FULL)
    path = tmp_path / "annotations.npz"
    np.savez(path, **(dict(np.load(path)) | change))
    with pytest.raises(InputError, match=message):
        load_annotations(tmp_path)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["a", [0, 99]], ["b", [1]]], "groups name attribute 99"),
        ([["a", [0, 0]], ["b", [1]]], "groups name attribute 0 in place of another"),
        ([["a", []], ["b", [0, 1, 2]]], "groups lack names or members"),
        ([["a", [-1, 0]], ["b", [1]]], r"groups\[0\]\[1\]\[0\] is -1, expected a whole number"),
        ([["a", [0.5]]], r"groups\[0\]\[1\]\[0\] is 0.5"),
        ([["a"]], "expected a name and the numbers of its attributes"),
        ([["a\u0007", [0]]], "none of them control characters"),
    ],
)
def test_groups_that_are_no_partition(tmp_path: Path, groups: list, message: str) -> None:
    save_annotations(tmp_path, FULL)
    path = tmp_path / "annotations.npz"
    arrays = dict(np.load(path))
    text = json.loads(arrays["text"].tobytes()) | {"groups": groups}
    arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        load_annotations(tmp_path)
