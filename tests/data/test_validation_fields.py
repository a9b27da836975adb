"""Validation classes from the fields and lists that are in circulation."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.data.validation_fields import classes_of_fields, classes_of_names
from dedn_jax.progress import note

LABELS = np.repeat([0, 1, 2, 3, 4], 3)  # class 4 is unseen
TRAINVAL = np.array([0, 1, 3, 4, 6, 7, 9, 10])
CLASS_0_1, CLASS_2, CLASS_3 = np.arange(0, 6), np.arange(6, 9), np.arange(9, 12)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_loc": CLASS_0_1, "val_loc": CLASS_3}, [3]),
        ({"train_loc": CLASS_0_1, "val_unseen_loc": CLASS_3}, [3]),
        (
            {
                "train_loc": CLASS_0_1[::2],
                "val_seen_loc": CLASS_0_1[1::2],
                "val_unseen_loc": CLASS_2,
            },
            [2],
        ),
        ({"train_gzsl_loc1": CLASS_0_1, "val_seen_loc1": CLASS_3, "val_unseen_loc1": CLASS_2}, [2]),
        ({"val_unseen_loc": CLASS_2}, [2]),
        ({"val_loc": np.zeros(0, np.int64), "val_unseen_loc": CLASS_2}, [2]),
        # `val_loc` over classes that are trained on; the field after it is right.
        ({"train_loc": CLASS_0_1, "val_loc": CLASS_0_1[1::2], "val_unseen_loc": CLASS_3}, [3]),
    ],
)
def test_fields(
    fields: dict[str, np.ndarray], expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    held = classes_of_fields(fields, LABELS, TRAINVAL, "f.hdf5")
    assert held is not None and held.dtype == np.int64
    assert held.tolist() == expected
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"train_loc": CLASS_0_1, "val_loc": CLASS_0_1[1::2]},  # a class in both
        {"train_loc": CLASS_0_1, "val_seen_loc": CLASS_2, "val_unseen_loc": CLASS_2},
        {"train_loc": CLASS_0_1, "val_loc": np.arange(12, 15)},  # an unseen class
        {"train_loc": CLASS_0_1, "val_loc": np.array([15])},  # past the end
        {"train_loc": CLASS_0_1, "val_loc": np.array([-1])},
        {"val_loc": CLASS_2[:1]},  # class 2 is trained on too
        {"val_loc": np.arange(12)},  # all seen classes
    ],
)
def test_fields_of_another_meaning_are_said(
    fields: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    note.cache_clear()
    for _ in range(2):
        assert classes_of_fields(fields, LABELS, TRAINVAL, "f.hdf5") is None
    said = capsys.readouterr().err
    assert said.startswith("f.hdf5: val_") and said.count("\n") == 1
    assert "names no validation classes" in said and "config.seed draws them" in said


def test_without_any_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert classes_of_fields({"train_loc": CLASS_0_1}, LABELS, TRAINVAL, "f.hdf5") is None
    assert not capsys.readouterr().err


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    classes, seen = ["ant", "bee", "cat", "dog", "elk"], np.arange(4)
    held = classes_of_names(["dog", "bee"], classes, seen, "valclasses1.txt")
    assert held is not None and held.tolist() == [1, 3]
    for names, said in ((["elk"], "'elk', which is no"), (["fox"], "'fox'"), (classes[:4], "all")):
        note.cache_clear()
        assert classes_of_names(names, classes, seen, "valclasses1.txt") is None
        assert said in capsys.readouterr().err
