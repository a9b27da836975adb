"""The published HDF5 layout: what is read, and what is refused with which message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features import hdf5 as hdf5_features
from dedn_jax.data.features import published_hdf5
from dedn_jax.data.features.hdf5 import available_memory
from dedn_jax.data.features.maps import normalize
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.errors import InputError

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
        (None, images_of(0, 1), None),
    ],
)
def test_validation_classes(write_published, train, val, expected):
    held = read_published_hdf5(write_published(train_loc=train, val_loc=val)).validation_classes
    assert (None if held is None else held.tolist()) == expected


# --- refusals ------------------------------------------------------------------------------------


def changed(array: np.ndarray, index: object, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


BAD_FIELDS = {
    "no features": (lambda f: {"feature_map": None}, "feature_map is missing; the file holds att,"),
    "no labels": (lambda f: {"labels": None}, "labels is missing"),
    "no trainval_loc": (lambda f: {"trainval_loc": None}, "trainval_loc is missing"),
    "no test_seen_loc": (lambda f: {"test_seen_loc": None}, "test_seen_loc is missing"),
    "no test_unseen_loc": (lambda f: {"test_unseen_loc": None}, "test_unseen_loc is missing"),
    "no att": (lambda f: {"att": None}, "att is missing"),
    "no w2v_att": (lambda f: {"w2v_att": None}, "w2v_att is missing"),
    "flat features": (
        lambda f: {"feature_map": f["feature_map"].reshape(24, 8, 6)},
        r"feature_map has shape \(24, 8, 6\), expected \[images, channels, height, width\]",
    ),
    "whole-number features": (
        lambda f: {"feature_map": f["feature_map"].astype(np.uint8)},
        "feature_map has type uint8, expected float16, float32 or bfloat16",
    ),
    "fewer images": (
        lambda f: {"feature_map": f["feature_map"][:20]},
        "feature_map has 20 images, labels has 24",
    ),
    "NaN": (
        lambda f: {"feature_map": changed(f["feature_map"], (17, 3, 1, 1), np.nan)},
        r"feature_map: image 17 \(0-based\) has NaN or infinite",
    ),
    "infinity": (
        lambda f: {"feature_map": changed(f["feature_map"], (0, 0, 0, 0), np.inf)},
        r"feature_map: image 0 \(0-based\) has NaN or infinite",
    ),
    "labels of rank 2": (
        lambda f: {"labels": f["labels"].reshape(12, 2)},
        r"labels has shape \(12, 2\)",
    ),
    "labels are text": (lambda f: {"labels": np.array([b"a"] * 24)}, "labels has shape .* type"),
    "fractional labels": (lambda f: {"labels": f["labels"] + 0.5}, "labels holds values that are"),
    "NaN labels": (lambda f: {"labels": f["labels"] * np.nan}, "labels holds values that are not"),
    "1-based labels": (
        lambda f: {"labels": f["labels"] + 1},
        "labels run from 1 to 6, expected 0 to 5 .*; they look 1-based: subtract 1",
    ),
    "negative label": (lambda f: {"labels": f["labels"] - 1}, "labels run from -1 to 4, expected"),
    "more classes than att": (
        lambda f: {"att": f["att"][:4]},
        r"labels run from 0 to 5, expected 0 to 3 \(4 classes\)$",
    ),
    "att of rank 3": (lambda f: {"att": f["att"][None]}, r"att has shape \(1, 6, 5\)"),
    "NaN in att": (
        lambda f: {"att": changed(f["att"], (2, 1), np.nan)},
        r"att holds NaN or infinite values \(first in row 2\)",
    ),
    "att turned": (lambda f: {"att": f["att"].T}, "w2v_att has shape .*; labels|att looks trans"),
    "w2v_att turned": (lambda f: {"w2v_att": f["w2v_att"].T}, "; w2v_att looks transposed"),
    "w2v_att short": (
        lambda f: {"w2v_att": f["w2v_att"][:3]},
        r"w2v_att has shape \(3, 3\), expected \[5, word_dim\] because att has 5 attributes",
    ),
    "infinite w2v_att": (
        lambda f: {"w2v_att": changed(f["w2v_att"], (1, 1), 1e300)},
        "w2v_att holds NaN or infinite",
    ),
    "empty split": (
        lambda f: {"test_seen_loc": np.zeros(0, np.int64)},
        r"test_seen_loc has shape \(0,\)",
    ),
    "overlap": (
        lambda f: {"test_seen_loc": changed(f["test_seen_loc"], 0, 0)},
        r"1 images are in both trainval_loc and test_seen_loc \(first: 0\)",
    ),
    "image twice": (
        lambda f: {"trainval_loc": changed(f["trainval_loc"], 1, 0)},
        "trainval_loc names an image twice",
    ),
    "1-based locations": (
        lambda f: {k: f[k] + 1 for k in ("trainval_loc", "test_seen_loc", "test_unseen_loc")},
        r"test_unseen_loc runs from 13 to 24, expected image indices 0 to 23 \(1-based",
    ),
    "1-based locations, last image unused": (
        lambda f: {k: f[k][f[k] < 23] + 1 for k in published_hdf5.SPLITS},
        "class 4 has images in both trainval_loc and test_unseen_loc.*look 1-based: subtract 1",
    ),
    "negative location, wrapped": (
        lambda f: {"trainval_loc": (f["trainval_loc"] - 1).astype(np.uint16)},
        "trainval_loc runs from 0 to 65535",
    ),
    "unseen class in training": (
        lambda f: {
            "trainval_loc": np.append(f["trainval_loc"], 12),
            "test_unseen_loc": f["test_unseen_loc"][1:],
        },
        "class 3 has images in both trainval_loc and test_unseen_loc",
    ),
    "test-seen class without training images": (
        lambda f: {"trainval_loc": f["trainval_loc"][3:]},
        "test_seen_loc holds class 0, which has no image in trainval_loc",
    ),
    "too few names": (
        lambda f: {"allclasses_names": np.array([b"a", b"b"])},
        "allclasses_names has 2 names, expected 6",
    ),
    "names are numbers": (
        lambda f: {"attribute_names": np.arange(5)},
        "attribute_names has type int64, expected strings",
    ),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_bad_fields(write_published, fields, case):
    change, message = BAD_FIELDS[case]
    path = write_published(**change(fields))
    with pytest.raises(InputError) as caught:
        read_published_hdf5(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert re.search(message, text), text
    assert "\n" not in text


def test_missing_folder_and_other_files(tmp_path, write_published):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            read_published_hdf5(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.hdf5", "no such file; set --config.data.path")
    refused(tmp_path, "a folder, expected an HDF5 file")
    text = tmp_path / "text.hdf5"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(text, r"not an HDF5 file \(43 bytes\)")
    text.write_bytes(b"")
    refused(text, r"not an HDF5 file \(0 bytes\)")
    whole = write_published()
    content = whole.read_bytes()
    for share in (0.9, 0.5, 0.1):
        text.write_bytes(content[: int(share * len(content))])
        refused(text, "cannot be opened: .*truncated")


def test_damaged_chunk(write_published):
    path = write_published(layout={"chunks": (4, 8, 3, 2), "compression": "gzip"})
    with h5py.File(path) as f:
        chunk = f["feature_map"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    with pytest.raises(InputError, match="feature_map cannot be read from image 0 on: "):
        read_published_hdf5(path)


@pytest.mark.parametrize("name", ["feature_map", "att", "val_loc"])
@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_fields_kept_elsewhere_are_refused(write_published, tmp_path, fields, name, kind):
    value = fields.get(name, np.arange(4))
    with h5py.File(tmp_path / "other.hdf5", "w") as f:
        f["secret"] = value
    path = write_published(**{name: None, "train_loc": np.arange(3)})
    with h5py.File(path, "a") as f:
        if kind == "external link":
            f[name] = h5py.ExternalLink("other.hdf5", "/secret")
        elif kind == "soft link":
            f["elsewhere"] = value
            f[name] = h5py.SoftLink("/elsewhere")
        elif kind == "external storage":
            storage = [(str(tmp_path / "other.hdf5"), 0, value.nbytes)]
            f.create_dataset(name, value.shape, value.dtype, external=storage)
        else:
            layout = h5py.VirtualLayout(value.shape, value.dtype)
            layout[...] = h5py.VirtualSource("other.hdf5", "secret", shape=value.shape)
            f.create_virtual_dataset(name, layout)
    with pytest.raises(InputError, match=f"{name} (is a link|keeps its values)") as caught:
        read_published_hdf5(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_field_is_a_group(write_published):
    path = write_published(labels=None)
    with h5py.File(path, "a") as f:
        f.create_group("labels")
    with pytest.raises(InputError, match="labels is not an array"):
        read_published_hdf5(path)


def test_enormous_small_field(write_published):
    path = write_published(labels=None)
    with h5py.File(path, "a") as f:
        f.create_dataset("labels", (2**40,), np.int64, chunks=(1024,))  # takes no space on disk
    with pytest.raises(InputError, match=r"labels has shape \(1099511627776,\), too large for"):
        read_published_hdf5(path)


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
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path), target],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    path.unlink()
    peak, total = (float(x) for x in done.stdout.split())
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
