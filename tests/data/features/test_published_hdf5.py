"""The published HDF5 layout: what is read, and in how much memory."""

from __future__ import annotations

import os
import re
import sys

import h5py
import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features import hdf5 as hdf5_features
from dedn_jax.data.features.hdf5 import available_memory
from dedn_jax.data.features.maps import normalize
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.errors import InputError
from tests.helpers.forks import Forked

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), BFLOAT16, np.dtype(np.float16)]
LAYOUTS = {
    "contiguous": {},
    "gzip, many images a chunk": {"chunks": (7, 3, 1, 1), "compression": "gzip"},
    "gzip, h5py's own chunks": {"compression": "gzip"},
    "one image a chunk": {"chunks": (1, 8, 3, 2)},
}


def test_reads_every_field(write_published, fields):
    path = write_published()
    data = read_published_hdf5(path)
    assert data.source == str(path)
    assert (data.num_classes, data.num_attributes) == (6, 5)
    assert (len(data.inputs), data.inputs.channels, data.inputs.regions) == (24, 8, 6)
    np.testing.assert_array_equal(data.labels, fields["labels"])
    assert data.labels.dtype == np.int32
    np.testing.assert_array_equal(data.trainval, fields["trainval_loc"])
    np.testing.assert_array_equal(data.test_seen, [3, 7, 11, 19])
    np.testing.assert_array_equal(data.test_unseen, [12, 13, 14, 15, 20, 21, 22, 23])
    np.testing.assert_array_equal(data.seen_classes, [0, 1, 2, 4])
    np.testing.assert_array_equal(data.unseen_classes, [3, 5])
    np.testing.assert_array_equal(data.class_embeddings, fields["att"].astype(np.float32))
    np.testing.assert_array_equal(data.word_vectors, fields["w2v_att"].astype(np.float32))
    assert data.validation_classes is None
    assert data.groups is None
    assert data.class_names == tuple(f"class {k}" for k in range(6))
    assert data.attribute_names == tuple(f"attribute {a}" for a in range(5))


@pytest.mark.parametrize("block_bytes", [100, 1000, 2**26])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_features(write_published, fields, monkeypatch, stored, target, layout, block_bytes):
    raw = fields["feature_map"].astype(stored)
    path = write_published(feature_map=raw, layout=LAYOUTS[layout])
    in_memory = read_published_hdf5(path, dtype=target.name)
    monkeypatch.setattr(hdf5_features, "_BLOCK_BYTES", block_bytes)
    in_blocks = read_published_hdf5(path, dtype=target.name)
    everything = np.arange(24)
    expected = normalize(raw.reshape(24, 8, 6), target)
    for data in (in_memory, in_blocks):
        assert data.inputs.dtype == target
        np.testing.assert_array_equal(data.inputs[everything], expected)
    assert in_blocks.fingerprint() == in_memory.fingerprint()


def test_sizes_only(write_published, monkeypatch):
    monkeypatch.setattr(hdf5_features, "available_memory", lambda: 0)
    data = read_published_hdf5(write_published(), dtype="bfloat16", sizes_only=True)
    assert (len(data.inputs), data.inputs.channels, data.inputs.regions) == (24, 8, 6)
    assert data.inputs.dtype == BFLOAT16


def test_labels_and_locations_as_matlab_writes_them(write_published, fields):
    path = write_published(
        labels=fields["labels"].astype(np.float64)[:, None],
        trainval_loc=fields["trainval_loc"].astype(np.uint16)[:, None],
        test_seen_loc=fields["test_seen_loc"].astype(np.uint16)[None, :],
    )
    data = read_published_hdf5(path)
    np.testing.assert_array_equal(data.labels, fields["labels"])
    np.testing.assert_array_equal(data.trainval, fields["trainval_loc"])
    np.testing.assert_array_equal(data.test_seen, fields["test_seen_loc"])
    assert data.trainval.dtype == np.int64


def test_negative_embeddings(write_published, fields):
    att = fields["att"].astype(np.float32)
    assert (att < 0).sum() > 0
    path = write_published()
    np.testing.assert_array_equal(read_published_hdf5(path).class_embeddings, att)
    clipped = read_published_hdf5(path, clip_negative_embeddings=True).class_embeddings
    np.testing.assert_array_equal(clipped, np.where(att < 0, 0, att))


def test_names(write_published):
    names = ["Robin", "Crow", "Bl\xe4sshuhn", "Owl", "evil\x1b[2J", "Wren"]
    path = write_published(
        allclasses_names=np.array(names, h5py.string_dtype()),
        attribute_names=np.array([b"a", b"b", b"c", b"d", b"e"]),
    )
    data = read_published_hdf5(path)
    assert data.class_names == ("Robin", "Crow", "Bl\xe4sshuhn", "Owl", "evil[2J", "Wren")
    assert data.attribute_names == ("a", "b", "c", "d", "e")


def test_word_vectors_from_another_file(write_published, tmp_path):
    vectors = np.arange(20, dtype=np.float64).reshape(5, 4)
    np.save(tmp_path / "v.npy", vectors)
    path = write_published(w2v_att=None)
    data = read_published_hdf5(path, word_vectors=tmp_path / "v.npy")
    np.testing.assert_array_equal(data.word_vectors, vectors)
    np.save(tmp_path / "v.npy", vectors[:4])
    with pytest.raises(InputError, match=r"v\.npy: word vectors have shape \(4, 4\)"):
        read_published_hdf5(path, word_vectors=tmp_path / "v.npy")


def images_of(*classes: int) -> np.ndarray:
    return np.concatenate([np.arange(4 * k, 4 * k + 4) for k in classes])


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (images_of(0, 2), images_of(1, 4), [1, 4]),  # as in xlsa17: test-seen images included
        (images_of(0, 2, 4), images_of(1)[:2], [1]),
        (images_of(0, 1, 2), images_of(1, 4), None),  # a class in both
        (images_of(0, 1), images_of(3), None),  # an unseen class
        (images_of(0, 3), images_of(1), None),
        (images_of(0, 1), images_of(2) + 100, None),  # not images
        (images_of(0, 1), np.zeros(0, np.int64), None),
        (images_of(0, 1), None, None),
        (None, images_of(0, 1), [0, 1]),
        (None, images_of(0, 1)[:1], None),  # some of whose images are trained on
    ],
)
def test_validation_classes(write_published, train, val, expected):
    held = read_published_hdf5(write_published(train_loc=train, val_loc=val)).validation_classes
    assert (None if held is None else held.tolist()) == expected


def test_not_enough_memory(write_published, monkeypatch):
    path = write_published()
    monkeypatch.setattr(hdf5_features, "available_memory", lambda: 10**7)
    with pytest.raises(InputError) as caught:
        read_published_hdf5(path)
    assert re.search(
        "the features need 67 MB of memory as float32, 10 MB are available; use "
        "--config.data.dtype=float16, or train from disk: convert the file once with",
        str(caught.value),
    )
    with pytest.raises(InputError, match=r"available; train from disk: .*memory_map=true$"):
        read_published_hdf5(path, dtype="bfloat16")


def test_sparse_file_of_terabytes(write_published):
    path = write_published(feature_map=None)
    with h5py.File(path, "a") as f:
        shape = (24, 2**20, 2**10, 2**10)
        f.create_dataset("feature_map", shape, np.float32, chunks=(1, 64, 64, 64))
    with pytest.raises(InputError, match=r"the features need \d+\.\d GB of memory as float32"):
        read_published_hdf5(path)


def test_available_memory():
    available = available_memory()
    if sys.platform.startswith("linux"):
        assert available is not None
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert 2**20 < available <= physical


_MEASURE = """
import sys
import numpy as np
from dedn_jax.data.load import read_published_hdf5

def peak():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmHWM:"))

before = peak()
data = read_published_hdf5(sys.argv[1], dtype=sys.argv[2])
print(peak() - before, float(np.abs(data.inputs[np.array([3, 100])].astype(np.float32)).sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(
    ("target", "layout"),
    [("float32", {}), ("float16", {}), ("float32", {"chunks": (64, 64, 14, 14)})],
    ids=["float32", "float16", "float32, chunks of many images"],
)
def test_one_copy_in_memory(tmp_path, write_published, target, layout):
    images, channels, side = 250, 1024, 14  # 201 MB as float32
    one = np.random.default_rng(0).random((1, channels, side, side), np.float32)
    path = write_published(
        feature_map=None,
        labels=np.arange(images) % 6,
        trainval_loc=np.flatnonzero(np.arange(images) % 6 < 4)[:100],
        test_seen_loc=np.flatnonzero(np.arange(images) % 6 < 4)[100:],
        test_unseen_loc=np.flatnonzero(np.arange(images) % 6 >= 4),
    )
    with h5py.File(path, "a") as f:
        maps = f.create_dataset("feature_map", (images, channels, side, side), "f4", **layout)
        for start in range(0, images, 64):
            maps[start : start + 64] = np.broadcast_to(
                one, (min(64, images - start), *one.shape[1:])
            )
    process = Forked("-c", _MEASURE, str(path), target)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    path.unlink()
    peak, total = (float(x) for x in output.split())
    unit = normalize(one.reshape(1, channels, -1), target).astype(np.float32)
    assert total == pytest.approx(2 * float(unit.sum()), rel=1e-3)
    array = images * channels * side**2 * np.dtype(target).itemsize
    if target == "float32":
        assert peak < 1.5 * array
    else:  # 100 MB pass through a block of float32; what is read is never there as a whole
        assert peak < array + 4 * hdf5_features._BLOCK_BYTES


def test_real_file(shared_data):
    path = shared_data / "cub40" / "feature_map_mobilenet_CUB.hdf5"
    data = read_published_hdf5(path)
    assert (len(data.inputs), data.inputs.channels, data.inputs.regions) == (960, 384, 49)
    assert (data.num_classes, data.num_attributes) == (40, 312)
    assert data.word_vectors.shape == (312, 300)
    splits = (data.trainval, data.test_seen, data.test_unseen)
    assert [len(s) for s in splits] == [600, 120, 240]
    assert (len(data.seen_classes), len(data.unseen_classes)) == (30, 10)
    assert data.validation_classes is not None
    assert data.validation_classes.tolist() == [3, 11, 17, 20, 21, 25, 27, 28]
    with h5py.File(path) as f:
        some = [5, 500, 959]
        raw = f["feature_map"][some].astype(np.float64).reshape(3, 384, 49)
    expected = raw / np.maximum(np.sqrt((raw**2).sum(1, keepdims=True)), 1e-12)
    np.testing.assert_allclose(data.inputs[np.array(some)], expected, atol=2e-7)
    sizes = read_published_hdf5(path, sizes_only=True).inputs
    assert (len(sizes), sizes.channels, sizes.regions) == (960, 384, 49)
