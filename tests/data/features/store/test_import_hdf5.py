"""From the published HDF5 layout to a store and back."""

from __future__ import annotations

import os
import sys

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.dataset import fingerprint_difference, with_inputs
from dedn_jax.data.features import hdf5 as hdf5_features
from dedn_jax.data.features.store import import_hdf5 as module
from dedn_jax.data.features.store.import_hdf5 import import_hdf5
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.data.features.store.verification import verify
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import read_published_hdf5
from dedn_jax.errors import InputError

LAYOUTS = {
    "contiguous": {},
    "gzip, many images a chunk": {"chunks": (7, 3, 1, 1), "compression": "gzip"},
    "gzip, all images a chunk": {"chunks": (24, 3, 1, 1), "compression": "gzip"},
    "one image a chunk": {"chunks": (1, 8, 3, 2)},
}
SHARD = 1000  # bytes: 5 images in float32


@pytest.mark.parametrize("block_bytes", [100, 1000, 2**26])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_store_equals_the_file(write_published, tmp_path, monkeypatch, layout, block_bytes):
    path = write_published(layout=LAYOUTS[layout], allclasses_names=np.array([b"x"] * 6))
    expected = read_published_hdf5(path)
    monkeypatch.setattr(hdf5_features, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(module, "_GROUP_BYTES", 3 * SHARD)
    for normalized in (True, False):
        folder = import_hdf5(
            path,
            tmp_path / str(normalized),
            dtype="float32",
            normalized=normalized,
            shard_bytes=SHARD,
        )
        store = open_store(folder)
        verify(store)
        assert (store.manifest.num_shards, store.manifest.shard_images) == (5, 5)
        assert store.manifest.origin == "imported"
        data = with_inputs(store.annotations, store.features("float32"))
        assert fingerprint_difference(data.fingerprint(), expected.fingerprint()) == []
        everything = np.arange(24)
        np.testing.assert_array_equal(data.inputs[everything], expected.inputs[everything])
        assert data.class_names == expected.class_names


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_16_bits(write_published, tmp_path, fields, stored, dtype):
    path = write_published(feature_map=fields["feature_map"].astype(stored))
    exact, everything = read_published_hdf5(path), np.arange(24)
    for normalized in (True, False):
        folder = import_hdf5(path, tmp_path / str(normalized), dtype=dtype, normalized=normalized)
        store = open_store(folder)
        assert store.manifest.num_shards == 1
        values = store.features("float32")[everything]
        half = 2.0**-12 if dtype == "float16" else 2.0**-9
        # Not normalised, the norm is of rounded numbers too.
        atol = half if normalized else 4 * half
        np.testing.assert_allclose(values, exact.inputs[everything], atol=atol)
        if normalized:
            again = read_published_hdf5(path, dtype=dtype).inputs[everything]
            np.testing.assert_array_equal(store.features(dtype)[everything], again)


def test_float64_and_word_vectors_from_elsewhere(write_published, tmp_path, fields):
    np.save(tmp_path / "v.npy", np.arange(20.0).reshape(5, 4))
    path = write_published(feature_map=fields["feature_map"].astype(np.float64), w2v_att=None)
    folder = import_hdf5(path, tmp_path / "s", dtype="float32", word_vectors=tmp_path / "v.npy")
    store = open_store(folder)
    expected = read_published_hdf5(path, word_vectors=tmp_path / "v.npy")
    found = with_inputs(store.annotations, store.features()).fingerprint()
    assert fingerprint_difference(found, expected.fingerprint()) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resumes(write_published, tmp_path, monkeypatch, layout, content):
    path = write_published(layout=LAYOUTS[layout])
    import_hdf5(path, tmp_path / "whole", dtype="float32", shard_bytes=SHARD)
    write, written = StoreWriter.write, []

    def stopping(self, shard, features, **options):
        if len(written) % 2:
            written.append(-1)
            raise KeyboardInterrupt
        written.append(shard)
        write(self, shard, features, **options)

    monkeypatch.setattr(StoreWriter, "write", stopping)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            import_hdf5(path, tmp_path / "s", dtype="float32", shard_bytes=SHARD)
    monkeypatch.undo()
    assert written == [0, -1, 1, -1, 2, -1, 3, -1]
    import_hdf5(path, tmp_path / "s", dtype="float32", shard_bytes=SHARD)
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    import_hdf5(path, tmp_path / "s", dtype="float32", shard_bytes=SHARD)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_refusals(write_published, tmp_path, fields):
    with pytest.raises(InputError, match=r"none\.hdf5: no such file"):
        import_hdf5(tmp_path / "none.hdf5", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    path = write_published(labels=fields["labels"] + 1)
    with pytest.raises(InputError, match="they look 1-based"):
        import_hdf5(path, tmp_path / "s")
    assert not (tmp_path / "s").exists()

    import_hdf5(write_published(), tmp_path / "s")
    with pytest.raises(InputError, match='holds a store with dtype="float16", expected "float32"'):
        import_hdf5(write_published(), tmp_path / "s", dtype="float32", shard_bytes=2304)
    # Another backbone's features of the same data set.
    path = write_published(feature_map=fields["feature_map"][:, ::-1])
    with pytest.raises(InputError, match=r"from another file than .*\(image 0 differs\)"):
        import_hdf5(path, tmp_path / "s")
    with pytest.raises(InputError, match="with other annotations"):
        import_hdf5(write_published(att=fields["att"] + 1), tmp_path / "s")

    maps = fields["feature_map"].copy()
    maps[17, 3, 1, 1] = np.nan
    path = write_published(feature_map=maps)
    with pytest.raises(InputError, match=r"hdf5: feature_map: image 17 \(0-based\) has NaN"):
        import_hdf5(path, tmp_path / "nan")
    path = write_published(feature_map=fields["feature_map"] * 1e5)
    with pytest.raises(InputError, match=r"feature_map: image \d+ .* too large for float16"):
        import_hdf5(path, tmp_path / "large", normalized=False)


def test_hints_name_what_this_job_has(write_published, tmp_path, monkeypatch):
    """It takes the file as an argument, and no flag of the configuration."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    for name, message in (
        ("none", "none: no such file; give the HDF5 file"),
        ("", "a folder, expected an HDF5 file; give the file"),
        ("pipe", "pipe: a device or pipe, expected an HDF5 file; give a regular file"),
        ("empty", r"it is empty \(0 bytes\); give the file with feature_map, labels and att"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            import_hdf5(tmp_path / name, tmp_path / "s")
        assert "config" not in str(caught.value)
    with pytest.raises(InputError, match="none: no such file of word vectors; give one by --word-"):
        import_hdf5(write_published(), tmp_path / "s", word_vectors=tmp_path / "none")

    def no_memory(*_):
        raise MemoryError

    path = write_published()
    monkeypatch.setattr(module.np, "empty", no_memory)
    with pytest.raises(InputError, match="read together; end other programs, or give this job"):
        import_hdf5(path, tmp_path / "s")


def test_chunks_are_unpacked_once(write_published, tmp_path, monkeypatch):
    path = write_published(layout=LAYOUTS["gzip, all images a chunk"])
    read, ranges = module.read_raw, []

    def counting(dataset, where, start, stop, out, bar):
        ranges.append((start, stop))
        read(dataset, where, start, stop, out, bar)

    monkeypatch.setattr(module, "read_raw", counting)
    import_hdf5(path, tmp_path / "s", dtype="float32", shard_bytes=SHARD)
    assert ranges == [(0, 24)]
    ranges.clear()
    monkeypatch.setattr(module, "_GROUP_BYTES", 2 * SHARD)
    import_hdf5(path, tmp_path / "t", dtype="float32", shard_bytes=SHARD)
    assert ranges == [(0, 10), (10, 20), (20, 24)]


IMPORT = """
import sys
import h5py
from pathlib import Path
from dedn_jax.data.features.store.import_hdf5 import import_hdf5

def peak():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmHWM:"))

path, images = Path(sys.argv[1]), int(sys.argv[2])
labels = np.arange(images) % 4
seen = np.flatnonzero(labels < 3)
with h5py.File(path, "w") as file:
    for name, value in dict(
        labels=labels, trainval_loc=seen[:-3], test_seen_loc=seen[-3:],
        test_unseen_loc=np.flatnonzero(labels == 3), att=np.eye(4), w2v_att=np.eye(4),
    ).items():
        file[name] = value
    maps = file.create_dataset("feature_map", (images, 256, 14, 14), "f4", chunks=(1, 256, 14, 14))
    one = np.random.default_rng(0).random((1, 256, 14, 14), np.float32)
    for i in range(images):
        maps[i] = one
import_hdf5(path, path.with_suffix(""), shard_bytes=8 * 10**6)
print(peak())
path.unlink()
for file in path.with_suffix("").iterdir():
    file.unlink()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_images(tmp_path, start_python):
    peaks = []
    for images in (200, 800):  # 40 and 160 MB
        process = start_python(IMPORT, tmp_path / f"{images}.hdf5", images)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        peaks.append(int(stdout))
    assert peaks[1] - peaks[0] < 15e6


def test_real_file(shared_data, tmp_path):
    path = shared_data / "cub40" / "feature_map_mobilenet_CUB.hdf5"
    expected = read_published_hdf5(path)
    folder = import_hdf5(path, tmp_path / "s", dtype="float32", shard_bytes=20 * 10**6)
    store = open_store(folder)
    verify(store)
    assert (store.manifest.images, store.manifest.channels) == (960, 384)
    assert (store.manifest.grid, store.manifest.num_shards) == ((7, 7), 4)
    data = with_inputs(store.annotations, store.features("float32"))
    assert fingerprint_difference(data.fingerprint(), expected.fingerprint()) == []
    everything = np.arange(960)
    np.testing.assert_array_equal(data.inputs[everything], expected.inputs[everything])
    half = open_store(import_hdf5(path, tmp_path / "h", shard_bytes=20 * 10**6)).features()
    np.testing.assert_allclose(half[everything], expected.inputs[everything], atol=2.0**-12)
