"""Chunks of HDF5 files that unpack to more than they should, and those that do not."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dedn_jax.data import hdf5_chunks as module
from dedn_jax.data.features import hdf5
from dedn_jax.data.features.store.import_hdf5 import import_hdf5
from dedn_jax.data.hdf5_chunks import check_chunks
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.errors import InputError
from tests.helpers.mat73 import save_mat73

BOMB = zlib.compress(bytes(2**20))  # for chunks of less
SHUFFLED = {"shuffle": True, "fletcher32": True}


@pytest.fixture(autouse=True)
def every_chunk_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE_BYTES", 2**14)


def plant(path: Path, name: str, chunk: bytes = BOMB, mask: int = 0) -> None:
    """Makes the first chunk of a data set another, and the data set one of gzip."""
    with h5py.File(path, "a") as file:
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        dataset = file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
        dataset.attrs.update(attributes)
        dataset.id.write_direct_chunk((0,) * values.ndim, chunk, mask)


@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "gzip"},
        {"compression": "gzip", **SHUFFLED},
        {"compression": "gzip", "compression_opts": 0},
        {"compression": "lzf", "shuffle": True},
        SHUFFLED,
        {"maxshape": (None, None)},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["zeros", "noise", "absent"])
def test_honest_chunks(tmp_path: Path, layout: dict[str, Any], kind: str) -> None:
    """Zeros pack 1000-fold, noise takes more than its size, and some chunks are not stored."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 64), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", noise.shape, np.uint8, chunks=(99, 64), **layout)
        if kind != "absent":
            dataset[:] = noise if kind == "noise" else 0
        check_chunks(dataset, "x")
        check_chunks(file.create_dataset("y", data=3.0), "y")


def test_stored_as_it_is(tmp_path: Path) -> None:
    """A chunk whose mask says that gzip was left out is no deflate stream."""
    values = np.random.default_rng(0).random(2048)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (2048,), "f8", chunks=(2048,), compression="gzip")
        dataset.id.write_direct_chunk((0,), values.tobytes(), 1)
    with h5py.File(tmp_path / "a.h5") as file:
        check_chunks(file["x"], "x")
        np.testing.assert_array_equal(file["x"][()], values)


def _twice(plan: Any) -> None:
    plan.set_deflate(4)
    plan.set_deflate(4)


def _shuffled_behind(plan: Any) -> None:
    plan.set_deflate(4)
    plan.set_shuffle()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_twice, "x is compressed more than once; store it again with gzip"),
        (_shuffled_behind, "x is compressed more than once; store it again with gzip"),
        (
            lambda plan: plan.set_scaleoffset(h5py.h5z.SO_INT, 0),
            r"x is compressed by the filter 'scaleoffset' \(number 6\), expected gzip, lzf or none",
        ),
        (
            lambda plan: plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL),
            r"x is compressed by the filter '.*' \(number 32015\), expected gzip, lzf or none",
        ),
        (
            lambda plan: plan.set_chunk((2**28,)),
            r"x has chunks of shape \(268435456,\), larger than itself",
        ),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((16,))
    change(plan)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((16,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, space, plan)
        with pytest.raises(InputError, match=message):
            check_chunks(file["x"], "x")


def test_large_chunks_of_lzf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LZF_BYTES", 8000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (9999,), "u1", chunks=(9999,), compression="lzf")
        dataset.id.write_direct_chunk((0,), bytes(9000))
        with pytest.raises(InputError, match=r"x: the chunk at \(0,\) has 9000 bytes of lzf"):
            check_chunks(dataset, "x")


def test_many_chunks(write_published: Any, fields: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not stored take memory as well; large fields are read in parts."""
    monkeypatch.setattr(module, "_MOST_CHUNKS", 20)
    path = write_published(labels=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("labels", (24,), "i8", chunks=(1,))
    with pytest.raises(InputError, match=r"labels has chunks .* of which 24 are read at once"):
        read_published_hdf5(path)
    path = write_published(layout={"chunks": (1, 8, 3, 2)})
    with pytest.raises(InputError, match=r"feature_map has chunks .* of which 24 are read at once"):
        read_published_hdf5(path)
    monkeypatch.setattr(hdf5, "_BLOCK_BYTES", fields["feature_map"].nbytes // 2)
    assert len(read_published_hdf5(path).inputs) == 24


# More than the chunk may have packed, and less, but more unpacked.
@pytest.mark.parametrize("chunk", [zlib.compress(bytes(2**21), 0), BOMB], ids=["long", "short"])
@pytest.mark.parametrize("name", ["feature_map", "att", "labels", "allclasses_names"])
def test_published(write_published: Any, tmp_path: Path, name: str, chunk: bytes) -> None:
    path = write_published(allclasses_names=np.array([b"a" * 400] * 6))
    plant(path, name, chunk)
    message = rf"feature_map\.hdf5: {name}: the chunk at \(0.*\) unpacks to more than its"
    with pytest.raises(InputError, match=message) as caught:
        read_published_hdf5(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        import_hdf5(path, tmp_path / "store")


@pytest.mark.parametrize("kind", ["numbers", "cells", "characters"])
def test_matlab(tmp_path: Path, kind: str) -> None:
    cells = np.empty((2, 1), object)
    cells[:, 0] = "a", "b"
    value = {"numbers": np.eye(20), "cells": cells, "characters": "a word"}[kind]
    path = save_mat73(tmp_path / "a.mat", x=value)
    plant(path, "x")
    with pytest.raises(InputError, match=r"a\.mat: x: the chunk at .* unpacks to more than its"):
        read_mat(path, ("x",))
