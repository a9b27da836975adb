"""Making a store: values, refusals and locks."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys

import ml_dtypes
import numpy as np
import pytest

from dedn_jax.data.features.maps import normalize
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.errors import InputError
from dedn_jax.files import file_sha256


def fill(writer, make_features, process=0, processes=1, stop=None):
    for shard in writer.missing(process, processes)[:stop]:
        writer.write(shard, make_features(writer.plan, writer.image_range(shard)))


def test_shards_are_plain_npy(write_store, make_plan, make_features):
    plan = make_plan()
    expected = make_features(plan, range(26))
    for dtype in ("float16", "float32", "bfloat16"):
        for normalized in (True, False):
            store = write_store(f"{dtype} {normalized}", dtype=dtype, normalized=normalized)
            shards = [np.load(p) for p in sorted(store.glob("shard-*.npy"))]
            values = np.concatenate(shards)
            assert values.dtype == (np.uint16 if dtype == "bfloat16" else np.dtype(dtype))
            target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
            right = normalize(expected, target) if normalized else expected.astype(target)
            np.testing.assert_array_equal(values.view(target), right)


def test_complete_store_is_left_alone(write_store, annotations, make_plan, content, tmp_path):
    store = write_store()
    before = content(store)
    assert list(before) == [
        *("annotations.npz", "manifest.json"),
        *(f"shard-0000{i}-of-00007.npy" for i in range(7)),
    ]
    with StoreWriter(store, make_plan(), annotations) as writer:
        assert writer.complete
        assert writer.missing() == []
        manifest = writer.finish()
    assert content(store) == before
    assert [file_sha256(store / manifest.shard_name(i)) for i in range(7)] == [*manifest.shards]
    assert manifest.annotations == file_sha256(store / "annotations.npz")


def test_finish_wants_every_shard(tmp_path, annotations, make_plan, make_features):
    with StoreWriter(tmp_path / "s", make_plan(), annotations) as writer:
        fill(writer, make_features, stop=5)
        with pytest.raises(InputError, match=r"is incomplete, 5 of 7 shards \(first missing: sh"):
            writer.finish()
    with pytest.raises(InputError, match="5 of 7 shards; run `dedn features extract` again"):
        open_store(tmp_path / "s")


def test_an_error_before_the_first_shard(tmp_path, annotations, make_plan, make_features):
    def fail(folder, stop):
        with StoreWriter(folder, make_plan(), annotations, process=0) as writer:
            fill(writer, make_features, stop=stop)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail(tmp_path / "new" / "s", 0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "s").mkdir()
    with pytest.raises(RuntimeError, match="no"):
        fail(tmp_path / "s", 0)
    assert not list((tmp_path / "s").iterdir())
    # Not what another process writes as well, nor what was there before, nor shards.
    with StoreWriter(tmp_path / "s", make_plan(), annotations, process=1):
        with pytest.raises(RuntimeError, match="no"):
            fail(tmp_path / "s", 0)
        assert (tmp_path / "s" / "plan.json").exists()
    with pytest.raises(RuntimeError, match="no"):
        fail(tmp_path / "s", 0)
    assert (tmp_path / "s" / "plan.json").exists()
    with pytest.raises(RuntimeError, match="no"):
        fail(tmp_path / "t", 2)
    assert len(list((tmp_path / "t").glob("shard-*"))) == 2


def test_cut_or_foreign_shard_is_made_again(
    write_store, tmp_path, annotations, make_plan, make_features, content
):
    folder = tmp_path / "s"
    with StoreWriter(folder, make_plan(), annotations) as writer:
        fill(writer, make_features)
    os.truncate(folder / "shard-00002-of-00007.npy", 200)
    (folder / "shard-00004-of-00007.npy").write_bytes(b"\x00" * 512)
    with StoreWriter(folder, make_plan(), annotations) as writer:
        assert writer.missing() == [2, 4]
        fill(writer, make_features)
        writer.finish()
    assert content(folder) == content(write_store("whole"))


def test_misuse(tmp_path, annotations, make_plan, make_features):
    plan = make_plan()
    with pytest.raises(ValueError, match="26 labels for 27 images"):
        StoreWriter(tmp_path / "s", make_plan(images=27), annotations)
    with StoreWriter(tmp_path / "s", plan, annotations) as writer:
        maps = make_features(plan, range(4))
        with pytest.raises(ValueError, match="call missing"):
            writer.write(0, maps)
        assert writer.missing(1, 2) == [1, 3, 5]
        with pytest.raises(ValueError, match="shard 0 is not of this process"):
            writer.write(0, maps)
        with pytest.raises(ValueError, match=r"expected \(4, 8, 6\)"):
            writer.write(1, maps[:3])
        with pytest.raises(ValueError, match="only process 0"):
            writer.finish()
        with pytest.raises(ValueError, match="process 2 of 2"):
            writer.missing(2, 2)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_bad_values_name_the_image(
    tmp_path, annotations, make_plan, make_features, content, normalized, bad
):
    plan = make_plan(normalized=normalized, dtype="float32")
    with StoreWriter(tmp_path / "s", plan, annotations) as writer:
        writer.missing()
        before = content(tmp_path / "s")
        maps = make_features(plan, range(8, 12))
        maps[1, 3, 2] = bad
        with pytest.raises(InputError, match=r"s: image 9 \(0-based\) has NaN or infinite"):
            writer.write(2, maps)
        with pytest.raises(InputError, match=r"^file: feature_map: image 9 "):
            writer.write(2, maps, source="file: feature_map")
    assert content(tmp_path / "s") == before


def test_overflow_of_half_precision(tmp_path, annotations, make_plan, make_features):
    maps = make_features(make_plan(), range(4))
    maps[2, 0, 0] = 70000
    message = r"image 2 \(0-based\) has values up to 7e\+04, too large for float16; store the"
    with StoreWriter(tmp_path / "raw", make_plan(normalized=False), annotations) as writer:
        writer.missing()
        with pytest.raises(InputError, match=message):
            writer.write(0, maps)
    for name, dtype, normalized in (("a", "float16", True), ("b", "bfloat16", False)):
        plan = make_plan(dtype=dtype, normalized=normalized)
        with StoreWriter(tmp_path / name, plan, annotations) as writer:
            writer.missing()
            writer.write(0, maps)


OTHER_PLANS = {
    "dtype": ({"dtype": "bfloat16"}, 'dtype="float16", expected "bfloat16"'),
    "normalized": ({"normalized": False}, "normalized=true, expected false"),
    "shards": ({"shard_images": 5}, "shard_images=4, expected 5"),
    "grid": ({"grid": (2, 3)}, r"grid=\[3, 2\], expected \[2, 3\]"),
    "pictures": ({"pictures": None}, 'pictures="0123456789abcdef", expected null'),
    "crop": ({"transform": {"resize": 448, "crop": 224}}, "transform.crop=448, expected 224"),
    "no crop": ({"transform": {"resize": 448}}, "transform.crop=448, expected null"),
    "backbone": (
        {"backbone": {"name": "resnet50", "sha256": "ab" * 32, "dtype": "float32"}},
        'backbone.name="resnet101", expected "resnet50"',
    ),
}


@pytest.mark.parametrize("case", OTHER_PLANS)
def test_another_plan(tmp_path, annotations, make_plan, make_features, write_store, case, content):
    change, message = OTHER_PLANS[case]
    unfinished = tmp_path / "unfinished"
    with StoreWriter(unfinished, make_plan(), annotations) as writer:
        fill(writer, make_features, stop=2)
    for folder, what in ((unfinished, "an unfinished store"), (write_store(), "a store")):
        before = content(folder)
        with pytest.raises(InputError, match=f": holds {what} with {message}; choose another"):
            StoreWriter(folder, make_plan(**change), annotations)
        assert content(folder) == before


def test_other_annotations(tmp_path, annotations, make_plan, make_features, write_store):
    with StoreWriter(tmp_path / "unfinished", make_plan(), annotations) as writer:
        fill(writer, make_features, stop=2)
    write_store("complete")
    for field, value in (("labels", annotations.labels.copy()), ("class_names", tuple("abcx"))):
        if field == "labels":
            value[[0, 1]] = value[[1, 0]]
        other = dataclasses.replace(annotations, **{field: value})
        for name in ("unfinished", "complete"):
            with pytest.raises(InputError, match=f"{name}: holds .* with other annotations"):
                StoreWriter(tmp_path / name, make_plan(), other)


def test_damaged_plan_and_annotations(tmp_path, annotations, make_plan):
    folder = tmp_path / "s"
    StoreWriter(folder, make_plan(), annotations)
    plan = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(plan[:50])
    with pytest.raises(InputError, match=r"plan\.json: not readable as JSON"):
        StoreWriter(folder, make_plan(), annotations)
    (folder / "plan.json").write_text(json.dumps(json.loads(plan) | {"annotations": 3}))
    with pytest.raises(InputError, match=r"plan\.json: is damaged \(annotations=3"):
        StoreWriter(folder, make_plan(), annotations)
    (folder / "plan.json").write_text(plan)
    os.truncate(folder / "annotations.npz", 100)
    with pytest.raises(InputError, match=r"annotations\.npz: is missing or damaged; choose"):
        StoreWriter(folder, make_plan(), annotations)


def test_other_folders(tmp_path, annotations, make_plan, make_annotations, content):
    def refused(path, message):
        with pytest.raises(InputError, match=message) as caught:
            StoreWriter(path, make_plan(), annotations)
        assert "\n" not in str(caught.value)

    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file, expected a folder")
    refused(tmp_path / "file" / "below", r"cannot be written \(Not a directory\)")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("")
    before = content(run)
    refused(run, r"is neither empty nor a feature store \(found '\.lock'\)")
    assert content(run) == before
    # Annotations alone may be the start of a store, but then of these annotations.
    other = tmp_path / "other"
    StoreWriter(other, make_plan(images=30), make_annotations(30))
    (other / "plan.json").unlink()
    (other / ".store-lock").unlink()
    before = content(other)
    refused(other, r"nor a feature store \(found 'annotations\.npz'\)")
    assert content(other) == before
    (tmp_path / "empty").mkdir()
    StoreWriter(tmp_path / "empty", make_plan(), annotations)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc takes no folders")
def test_folder_cannot_be_made(annotations, make_plan):
    with pytest.raises(InputError, match="/proc/store: cannot be written"):
        StoreWriter("/proc/store", make_plan(), annotations)


def test_disk_full(tmp_path, annotations, make_plan, make_features, monkeypatch, content):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, message = tmp_path / "s", r"cannot be written \(No space left on device\); make room"
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=message):
            StoreWriter(folder, make_plan(), annotations)
    assert not folder.exists()
    with StoreWriter(folder, make_plan(), annotations) as writer:
        fill(writer, make_features, stop=3)
        before = content(folder)
        with monkeypatch.context() as m:
            m.setattr(os, "fsync", full)
            with pytest.raises(InputError, match=f"shard-00003-of-00007.npy: {message}"):
                fill(writer, make_features)
            assert content(folder) == before
        fill(writer, make_features)
        before = content(folder)
        with monkeypatch.context() as m:
            m.setattr(os, "fsync", full)
            with pytest.raises(InputError, match=message):
                writer.finish()
        assert content(folder) == before
        writer.finish()
    assert open_store(folder).manifest.images == 26


# --- several processes ---------------------------------------------------------------------------


def test_one_run_at_a_time(tmp_path, annotations, make_plan, make_features):
    folder, plan = tmp_path / "s", make_plan()
    with StoreWriter(folder, plan, annotations) as first:
        first.missing()
        with (
            StoreWriter(folder, plan, annotations) as second,
            pytest.raises(InputError, match="another process writes this store; wait for it"),
        ):
            second.missing()
        with pytest.raises(InputError, match="another process writes this store"):
            StoreWriter(folder, plan, annotations, 0)
        with StoreWriter(folder, plan, annotations, 1) as other:  # of the same run
            fill(other, make_features, 1, 2)
    with StoreWriter(folder, plan, annotations) as second:
        assert second.missing() == [0, 2, 4, 6]
        fill(second, make_features)
        second.finish()


def test_only_own_leftovers_are_removed(tmp_path, annotations, make_plan):
    folder = tmp_path / "s"
    StoreWriter(folder, make_plan(), annotations)
    left = [f".shard-0000{i}-of-00007.npy.abcd_123" for i in range(3)]
    foreign = [".shard-00000-of-00007.npy.abc", ".shard-x", "notes.txt"]
    for name in [*left, *foreign]:
        (folder / name).write_text("")
    with StoreWriter(folder, make_plan(), annotations) as writer:
        writer.missing(1, 2)
        assert [(folder / n).exists() for n in left] == [True, False, True]
    with StoreWriter(folder, make_plan(), annotations) as writer:
        writer.missing()
    assert not any((folder / n).exists() for n in left)
    assert all((folder / n).exists() for n in foreign)
