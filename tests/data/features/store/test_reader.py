"""Reading a store: rows at random, all at once, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.dataset import fingerprint_difference, with_inputs
from dedn_jax.data.features import hdf5 as hdf5_features
from dedn_jax.data.features.maps import FeatureMaps, InMemoryFeatures, normalize
from dedn_jax.data.features.store import reader
from dedn_jax.data.features.store.reader import check_store, open_store
from dedn_jax.data.features.store.verification import compare_without_reading, verify
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.errors import InputError
from dedn_jax.progress import note

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}
BATCH = np.array([25, 0, 7, 7, 13, 24, 1])


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_values(write_store, make_plan, make_features, annotations, stored, target, normalized):
    store = open_store(write_store(dtype=stored, normalized=normalized))
    raw, dtype = make_features(make_plan(), range(26)), DTYPES[target]
    if normalized:
        expected = normalize(raw, DTYPES[stored]).astype(dtype)
    else:
        expected = normalize(raw.astype(DTYPES[stored]), dtype)
    mapped = store.features(target)
    memory = mapped.load_into_memory()
    assert isinstance(mapped, FeatureMaps)
    assert isinstance(memory, InMemoryFeatures)
    for features in (mapped, memory):
        assert (len(features), features.channels, features.regions) == (26, 8, 6)
        assert features.dtype == features[BATCH].dtype == dtype
        np.testing.assert_array_equal(features[BATCH], expected[BATCH])
        np.testing.assert_array_equal(features[np.arange(26)], expected)
        assert features[np.array([], np.int64)].shape == (0, 8, 6)
    assert mapped.fingerprint() == memory.fingerprint()
    for indices in ([26], [-1], [0.5]):
        with pytest.raises(IndexError):
            mapped[np.array(indices)]
    data = with_inputs(store.annotations, mapped)
    assert data.annotations_fingerprint() == annotations.annotations_fingerprint()
    assert data.class_names == annotations.class_names


def test_pickling_threads_and_few_open_files(write_store, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_FILES", 2)
    features = open_store(write_store()).features()
    whole = features[np.arange(26)]
    assert len(features._files) == 2
    state = pickle.dumps(features)
    assert len(state) < 3000
    again = pickle.loads(state)
    failures: list[object] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(100):
                batch = rng.integers(0, 26, 9)
                np.testing.assert_array_equal(again[batch], whole[batch])
        except BaseException as error:
            failures.append(error)

    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    if opened:
        assert len(os.listdir("/proc/self/fd")) <= opened + 2


FORK = """
import os, sys
from dedn_jax.data.features.store.reader import open_store

features = open_store(sys.argv[1]).features()
whole = features[np.arange(26)]
children = []
for seed in range(3):
    process = os.fork()
    if not process:
        rng = np.random.default_rng(seed)
        right = True
        for _ in range(100):
            batch = rng.integers(0, 26, 9)
            right &= np.array_equal(features[batch], whole[batch])
        os._exit(not right)
    children.append(process)
for _ in range(100):
    assert np.array_equal(features[np.arange(26)], whole)
for process in children:
    assert os.waitpid(process, 0)[1] == 0
"""


def test_forked_processes_share_open_files(write_store, start_python):
    process = start_python(FORK, write_store())
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr


def test_not_enough_memory(write_store, monkeypatch):
    features = open_store(write_store()).features("float32")
    monkeypatch.setattr(hdf5_features, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"need 0 MB of memory as float32.*memory_map=true$"):
        features.load_into_memory()
    assert features[BATCH].shape == (7, 8, 6)


# --- refusals ------------------------------------------------------------------------------------


def test_no_store(tmp_path, annotations, make_plan):
    with pytest.raises(InputError, match="none: no such folder, expected a feature store"):
        open_store(tmp_path / "none")
    with pytest.raises(InputError, match=r"no feature store \(no manifest\.json\); make one with"):
        open_store(tmp_path)
    StoreWriter(tmp_path / "s", make_plan(origin="imported"), annotations)
    with pytest.raises(InputError, match="is incomplete, 0 of 7 shards; run `dedn features im"):
        open_store(tmp_path / "s")


def test_missing_and_cut_shards(write_store):
    folder = write_store()
    features = open_store(folder).features()
    shard = folder / "shard-00003-of-00007.npy"
    content = shard.read_bytes()
    for changed, found in (
        (content[:-1], "511 bytes"),
        (content + b"\0", "513 bytes"),
        (content[:300], "300 bytes"),
        (content.replace(b"<f2", b"|O8"), "512 bytes"),
        (None, "missing"),
    ):
        if changed is None:
            shard.unlink()
        else:
            shard.write_bytes(changed)
        with pytest.raises(InputError, match=f"00003-of-00007.npy: {found}, expected a .npy file"):
            open_store(folder)
    with pytest.raises(InputError, match=r"00003-of-00007\.npy: cannot be read \(No such file"):
        features[np.array([0, 13])]
    shard.write_bytes(content[:300])
    with pytest.raises(InputError, match=r"00003-of-00007\.npy: is truncated"):
        features[np.array([13, 15])]
    with pytest.raises(InputError, match="is truncated"):
        features.load_into_memory()


def test_shard_cut_while_it_is_open(write_store):
    folder = write_store()
    features = open_store(folder).features()
    features[np.array([12])]
    os.truncate(folder / "shard-00003-of-00007.npy", 200)
    with pytest.raises(InputError, match="is truncated"):
        features[np.array([15])]


def change_a_value(shard: Path) -> None:
    """Of the last image, without another size or time."""
    before = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_is_read_whole_is_compared_whole(write_store):
    folder = write_store()
    change_a_value(folder / "shard-00004-of-00007.npy")
    with pytest.raises(InputError, match=r"1 of 7 shards are damaged .*: shard-00004-of-00007"):
        open_store(folder).features().load_into_memory()


def test_in_memory_and_on_disk_are_the_same_data(write_store):
    store = open_store(write_store())
    on_disk, compared = store.features(), store.features(compared=True)
    in_memory = on_disk.load_into_memory().fingerprint()
    assert on_disk.fingerprint() == in_memory
    assert in_memory["features"]["of"] == "the SHA-256 of all shards"
    large = compared.fingerprint()
    assert set(large) - set(in_memory) == {"feature_sample_large"}
    assert fingerprint_difference(in_memory, large) == []


def test_on_disk_newer_shards_are_read_and_others_sampled(write_store, capsys):
    folder = write_store()
    note.cache_clear()
    compare_without_reading(open_store(folder))
    said = capsys.readouterr().err
    assert "compared by size, time and 26 sampled images; `dedn features check` reads all" in said
    os.utime(folder / "shard-00002-of-00007.npy")  # as in a copy: newer, but the same
    compare_without_reading(open_store(folder))
    assert "and 1 newer shards by their SHA-256" in capsys.readouterr().err
    shard = folder / "shard-00002-of-00007.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(shard, (2**31, 2**31))
    with pytest.raises(InputError, match=r"1 of 7 shards are damaged .*: shard-00002-of-00007"):
        compare_without_reading(open_store(folder))
    # Not newer: the sample shows it.
    before = open_store(folder).features(compared=True).fingerprint()
    shard.write_bytes(content)
    after = open_store(folder).features(compared=True).fingerprint()
    assert "feature_sample_large" in fingerprint_difference(before, after)


def test_verify_names_damaged_shards(write_store):
    folder = write_store()
    store = open_store(folder)
    verify(store)
    for i in (1, 4):
        shard = folder / f"shard-0000{i}-of-00007.npy"
        content = bytearray(shard.read_bytes())
        content[-5] ^= 1
        shard.write_bytes(content)
    store = open_store(folder)
    with pytest.raises(
        InputError, match=r"2 of 7 shards are damaged .*: shard-00001-of-00007.*0004"
    ):
        verify(store)
    (folder / "shard-00000-of-00007.npy").unlink()
    with pytest.raises(InputError, match=r"00000-of-00007\.npy: cannot be read"):
        verify(store)


def test_annotations_of_another_store(write_store, tmp_path, annotations):
    folder = write_store()
    file = folder / "annotations.npz"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"annotations\.npz: SHA-256 differs from manifest"):
        open_store(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"annotations\.npz: no such file"):
        open_store(folder)
    file.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["images"] = 25
    manifest["shards"][6]["images"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.truncate(folder / "shard-00006-of-00007.npy", 224)
    shard = (folder / "shard-00006-of-00007.npy").read_bytes()
    (folder / "shard-00006-of-00007.npy").write_bytes(shard.replace(b"(2, 8, 6)", b"(1, 8, 6)"))
    with pytest.raises(InputError, match=r"labels has 26 images, manifest\.json has 25"):
        open_store(folder)


def test_nan_in_a_store_that_is_not_normalised(write_store):
    folder = write_store(dtype="float32", normalized=False)
    shard = folder / "shard-00003-of-00007.npy"
    content = bytearray(shard.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"00003-of-00007\.npy: image 15 \(0-based\) has NaN"):
        open_store(folder).features()[np.array([3, 15])]


BACKBONE = {"name": "resnet101", "sha256": "ab" * 32, "dtype": "float32"}
UNFIT = {
    "pictures": (
        {"pictures": "ffff"},
        'was made with other pictures (pictures="0123456789abcdef", expected "ffff")',
    ),
    "crop": (
        {"transform": {"resize": 448, "crop": 224}},
        "another transform of the pictures (transform.crop=448, expected 224)",
    ),
    "more": (
        {"transform": {"resize": 448, "crop": 448, "flip": True}},
        "(transform.flip=null, expected true)",
    ),
    "less": ({"transform": {"crop": 448}}, "(transform.resize=448, expected null)"),
    "name": (
        {"backbone": BACKBONE | {"name": "resnet50"}},
        'another backbone (backbone.name="resnet101", expected "resnet50")',
    ),
    "weights": ({"backbone": {"sha256": "cd"}}, f'(backbone.sha256="{"ab" * 32}", expected "cd")'),
    "precision": (
        {"backbone": BACKBONE | {"dtype": "bfloat16"}},
        '(backbone.dtype="float32", expected "bfloat16")',
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_store_that_does_not_fit(write_store, case):
    asked, message = UNFIT[case]
    store = open_store(write_store())
    with pytest.raises(InputError) as caught:
        check_store(store, **asked)
    text = str(caught.value)
    assert text.startswith(f"{store.path}: was made with ")
    assert message in text
    assert "\n" not in text


def test_store_that_fits(write_store):
    store = open_store(write_store())
    check_store(store)
    check_store(
        store,
        pictures="0123456789abcdef",
        transform={"crop": 448, "resize": 448},
        backbone=BACKBONE,
    )
    check_store(store, backbone={"name": "resnet101"})


@pytest.mark.parametrize("field", ["pictures", "transform", "backbone"])
def test_imported_store_says_nothing(write_store, field):
    nothing = {"pictures": None, "transform": None, "backbone": None}
    store = open_store(write_store(origin="imported", **nothing))
    check_store(store, **nothing)
    asked = "x" if field == "pictures" else {"name": "x"}
    with pytest.raises(InputError, match=f"does not record its {field} .imported store"):
        check_store(store, **nothing | {field: asked})
