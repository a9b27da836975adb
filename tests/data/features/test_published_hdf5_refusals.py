"""The published HDF5 layout: what is refused, with which message."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.data.features import published_hdf5
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.errors import InputError


def changed(array: np.ndarray, index: object, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


BAD_FIELDS = {
    "no features": (lambda f: {"feature_map": None}, "feature_map is missing; the file holds att,"),
    "no labels": (lambda f: {"labels": None}, "labels is missing"),
    "no trainval_loc": (lambda f: {"trainval_loc": None}, "trainval_loc is missing"),
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
        lambda f: {"test_unseen_loc": np.zeros(0, np.int64)},
        r"test_unseen_loc has shape \(0,\)",
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
    "labels of no fixed size": (
        lambda f: {"labels": np.array(["0"] * 24, object)},
        r"labels has shape \(24,\) and type object, expected numbers",
    ),
    "att of strings": (
        lambda f: {"att": np.array([["1"] * 5] * 6, object)},
        r"att has shape \(6, 5\) and type object, expected numbers",
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
    refused(tmp_path, "a folder, expected an HDF5 file; set --config.data.path to the file")
    text = tmp_path / "text.hdf5"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(text, "not an HDF5 file: it is a Git LFS pointer.*git lfs pull")
    text.write_bytes(b"")
    refused(text, "not an HDF5 file: it is empty")
    whole = write_published()
    content = whole.read_bytes()
    for share in (0.9, 0.5, 0.1):
        text.write_bytes(content[: int(share * len(content))])
        refused(text, "cannot be opened: .*truncated.*shorter than it says itself")


def test_a_file_that_another_program_has_locked_is_read(write_published):
    path = write_published()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert len(read_published_hdf5(path).labels) == 24


def test_file_systems_without_locks_are_read(write_published, tmp_path):
    """As NFS without a lock service answers, in a process of its own: HDF5 asks the C library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = "#include <errno.h>\nint flock(int f, int o) { errno = ENOLCK; return -1; }\n"
    (tmp_path / "no_locks.c").write_text(source)
    library = tmp_path / "no_locks.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "no_locks.c")]
    subprocess.run(command, check=True)
    code = (
        "import sys; from pathlib import Path\n"
        "from dedn_jax.data.features.published_hdf5 import open_published\n"
        "print(len(open_published(Path(sys.argv[1]))['labels']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write_published())],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "24\n", done.stderr


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


@pytest.mark.parametrize(
    ("name", "count", "limit", "message"),
    [
        ("allclasses_names", 64, 2**26, "has 64 names, expected 6: one for each class"),
        ("allclasses_names", 6, 2**20, "takes more than 1048576 bytes, too large for names"),
        ("labels", 24, 2**26, "labels has shape .* and type object, expected numbers"),
    ],
)
def test_references_that_share_one_large_object(
    write_published, monkeypatch, name, count, limit, message
):
    """A few bytes each in the file, and as many copies in memory as there are references."""
    large = 2**20 if limit > 2**20 else 2**18
    path = write_published(**{name: None})
    with h5py.File(path, "a") as f:
        kind = h5py.string_dtype() if name != "labels" else h5py.vlen_dtype(np.uint8)
        field = f.create_dataset(name, (count,), kind)
        field[0] = "x" * large if name != "labels" else np.zeros(large, np.uint8)
        begin = field.id.get_offset()
    content = bytearray(path.read_bytes())
    content[begin : begin + 16 * count] = content[begin : begin + 16] * count
    path.write_bytes(content)
    monkeypatch.setattr(published_hdf5, "_NAMES_BYTES", limit)
    tracemalloc.start()
    with pytest.raises(InputError, match=message):
        read_published_hdf5(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_long_names_of_fixed_size(write_published, monkeypatch):
    monkeypatch.setattr(published_hdf5, "_NAMES_BYTES", 1000)
    path = write_published(allclasses_names=np.array([b"x" * 200] * 6))
    with pytest.raises(InputError, match="allclasses_names takes more than 1000 bytes"):
        read_published_hdf5(path)
