"""What a store says about itself: layout of shards, damaged manifests."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from dedn_jax.data.features.store.manifest import differences, read_manifest, shard_images
from dedn_jax.errors import InputError


def test_plan_cuts_images_into_shards(make_plan):
    plan = make_plan()
    assert (plan.regions, plan.num_shards, plan.image_bytes) == (6, 7, 96)
    assert [len(plan.image_range(i)) for i in range(7)] == [4, 4, 4, 4, 4, 4, 2]
    assert [i for s in range(7) for i in plan.image_range(s)] == list(range(26))
    assert plan.shard_name(3) == "shard-00003-of-00007.npy"
    with pytest.raises(IndexError):
        plan.image_range(7)


def test_default_shards_have_about_64_mb(make_plan):
    cub = make_plan(images=11788, channels=2048, grid=(14, 14), shard_images=0)
    assert 63e6 < cub.shard_images * cub.image_bytes <= 64e6
    assert shard_images(10**9) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_header_is_one_that_numpy_reads(make_plan, dtype):
    plan = make_plan(images=10**7, channels=10**5, grid=(999, 999), dtype=dtype, shard_images=10**6)
    header = io.BytesIO(plan.shard_header(0))
    assert np.lib.format.read_magic(header) == (1, 0)
    shape, fortran, stored = np.lib.format.read_array_header_1_0(header)
    assert (shape, fortran, stored) == ((10**6, 10**5, 999**2), False, plan.stored_dtype)
    assert header.tell() == len(header.getvalue()) == 128


@pytest.mark.parametrize(
    "change",
    [
        {"images": 0},
        {"channels": 2.5},
        {"grid": (3,)},
        {"grid": (3, 0)},
        {"dtype": "float64"},
        {"normalized": 1},
        {"origin": "found"},
        {"pictures": 3},
        {"transform": [448]},
        {"shard_images": -1},
    ],
    ids=str,
)
def test_plans_that_cannot_be(make_plan, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        make_plan(**change)


def test_manifest_holds_the_documented_fields(write_store):
    value = json.loads((write_store() / "manifest.json").read_text())
    assert list(value) == [
        *("format", "images", "channels", "regions", "grid", "dtype", "normalized"),
        *("shard_images", "pictures", "transform", "backbone", "origin", "annotations", "shards"),
    ]
    assert value["grid"] == [3, 2]
    assert value["transform"] == {"resize": 448, "crop": 448}
    assert value["shards"][6]["file"] == "shard-00006-of-00007.npy"
    assert value["shards"][6]["images"] == 2


def set_to(name, value):
    return lambda m: m.update({name: value})


DAMAGE = {
    "other version": (set_to("format", 2), "format is 2, expected 1"),
    "no format": (lambda m: m.pop("format"), "format is None, expected 1"),
    "no images": (lambda m: m.pop("images"), r"is damaged \('images' is missing\)"),
    "text for a number": (set_to("images", "26"), "images='26', expected a whole number from 1"),
    "zero shards": (set_to("shard_images", 0), "shard_images=0"),
    "grid of one": (set_to("grid", [6]), r"grid=\(6,\), expected rows"),
    "grid is a number": (set_to("grid", 6), "is damaged"),
    "regions": (set_to("regions", 7), r"regions is 7 for grid \[3, 2\]"),
    "dtype": (set_to("dtype", ["float16"]), "is damaged"),
    "shards are no list": (set_to("shards", None), "is damaged"),
    "a shard fewer": (lambda m: m["shards"].pop(), "shards: 6, expected 7"),
    "a shard more": (lambda m: m["shards"].append(m["shards"][0]), "is damaged"),
    "no hash": (lambda m: m["shards"][0].update(sha256=None), "sha256=None, expected a SHA-256"),
    "file elsewhere": (lambda m: m["shards"][1].update(file="../../x.npy"), "files or numbers"),
    "annotations": (set_to("annotations", "ab"), "annotations='ab', expected a SHA-256"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_manifests(write_store, case):
    change, message = DAMAGE[case]
    file = write_store() / "manifest.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_differences_name_nested_fields():
    a, b = {"x": 1, "t": {"size": 4, "crop": 2}, "n": None}, {"x": 1, "t": {"size": 5}, "n": {}}
    assert differences(a, a) == []
    assert differences(a, b) == [("t.size", 4, 5), ("t.crop", 2, None), ("n", None, {})]
