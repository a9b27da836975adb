"""The same feature map under two classes, or in training and test, is said when it is read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.data.features.store.import_hdf5 import import_hdf5
from dedn_jax.data.load import load_dataset
from dedn_jax.progress import note
from tests.helpers.tiny import tiny_config, write_tiny


def test_feature_maps_of_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(tmp_path / "tiny.hdf5")
    load_dataset(tiny_config(path))
    assert not capsys.readouterr().err
    with h5py.File(path, "a") as file:
        train, test = file["trainval_loc"][()], file["test_seen_loc"][()]
        labels, maps = file["labels"][()], file["feature_map"]
        same = next(i for i in test if labels[i] == labels[train[0]])
        other = next(i for i in train if labels[i] != labels[train[0]])
        for image in (same, other):
            maps[image] = maps[train[0]]
    expected = [
        f"the same feature map has several classes: image {train[0]} and image {other}",
        f"the same feature map is trained on and tested with: image {train[0]} and image {same}",
    ]
    store = import_hdf5(path, tmp_path / "store", dtype="float16")
    for fields in ({}, {"data__format": "store", "data__path": store}):
        note.cache_clear()
        load_dataset(tiny_config(path, **fields))
        said = [line for line in capsys.readouterr().err.splitlines() if "the same" in line]
        assert [line.split(": ", 1)[1] for line in said] == expected


def test_images_in_no_split_are_not_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny(tmp_path / "tiny.hdf5")
    with h5py.File(path, "a") as file:
        train = file["trainval_loc"][()]
        file["feature_map"][train[1]] = file["feature_map"][train[-1]]
        del file["trainval_loc"]
        file["trainval_loc"] = np.delete(train, 1)
    load_dataset(tiny_config(path))
    assert not capsys.readouterr().err
