"""Feature stores and prepared sets."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from dedn_jax.cli import main as cli
from tests.cli.bad_inputs.making import jpeg
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import published_fields


def _damaged_shard(world: World) -> list[str]:
    shard = world.store() / "shard-00001-of-00003.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return ["features", "check", str(shard.parent)]


def _missing_shard(world: World) -> list[str]:
    (world.store() / "shard-00001-of-00003.npy").unlink()
    return world.train_from(world.root / "store")


def _damaged_manifest(world: World) -> list[str]:
    path = world.store() / "manifest.json"
    path.write_text(path.read_text().replace('"channels": 4', '"channels": "4"'))
    return ["features", "check", str(path.parent)]


def _not_empty(world: World) -> list[str]:
    (world.root / "store").mkdir()
    (world.root / "store" / "thesis.tex").write_text("x")
    return ["features", "import", str(world.hdf5()), f"--out={world.root}/store"]


def _other_features(world: World) -> list[str]:
    """The file has changed since a part of it was imported."""
    path = world.hdf5()
    assert cli.main(["features", "import", str(path), f"--out={world.root}/store"]) == 0
    world.hdf5(labels=np.roll(published_fields()["labels"], 0), att=published_fields()["att"] * 2)
    return ["features", "import", str(path), f"--out={world.root}/store"]


def _damaged_annotations(world: World) -> list[str]:
    path = next(world.prepared().rglob("annotations.npz"))
    path.write_bytes(path.read_bytes()[:-100])
    return ["data", "show", str(path.parent), f"--out={world.root}/pages"]


def _missing_records(world: World) -> list[str]:
    next(world.prepared().rglob("*test_seen.array_record*")).unlink()
    return world.extract(prepared=world.root / "prepared")


def _other_build(world: World) -> list[str]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        world.folder()
        assert cli.main(world.build()) == 0
    (world.root / "mine" / "pictures" / "class 0" / "0.jpg").write_bytes(jpeg())
    return world.build()


STORES = [
    Bad(
        "store of another transform",
        lambda w: w.train_from(w.store(transform={"resize": 448, "crop": 448})),
        "/store",
        "another transform of the pictures (transform.resize=448, expected 64",
        "extract the features again into another folder",
    ),
    Bad(
        "store of another backbone",
        lambda w: w.train_from(w.store()),
        "/store",
        "another backbone (backbone.sha256",
        "extract the features again into another folder",
    ),
    Bad(
        "store of other pictures",
        lambda w: w.train_from(w.store(pictures="0" * 64)),
        "/store",
        "other pictures (pictures",
        "extract the features again into another folder",
    ),
    Bad(
        "damaged shard",
        _damaged_shard,
        "/store",
        "shard-00001-of-00003.npy",
        "copy the store again",
    ),
    Bad("missing shard", _missing_shard, "shard-00001-of-00003.npy", "missing", "copy the store"),
    Bad("damaged manifest", _damaged_manifest, "manifest.json", "channels='4'", "copy the store"),
    Bad(
        "incomplete store",
        lambda w: w.train_from(w.store(shards=1)),
        "/store",
        "is incomplete, 1 of 3 shards",
        "run `dedn features extract` again",
    ),
    Bad(
        "no store",
        lambda w: ["features", "check", f"{w.shared.folder}"],
        "mine",
        "no feature store (no manifest.json)",
        "make one with `dedn features extract`",
    ),
    Bad(
        "store in a folder with files", _not_empty, "/store", "found 'thesis.tex'", "choose another"
    ),
    Bad(
        "store of other data",
        _other_features,
        "/store",
        "other annotations",
        "choose another folder, or remove this one",
    ),
    Bad(
        "features not named",
        lambda w: w.train(*w.prepared_flags()),
        "config.data.features",
        "is empty",
        "set --config.data.features",
    ),
    Bad(
        "damaged prepared set",
        _damaged_annotations,
        "annotations.npz",
        "is damaged",
        "make it again",
    ),
    Bad(
        "missing record file", _missing_records, "test_seen", "no such file", "build the set again"
    ),
    Bad(
        "no prepared set",
        lambda w: ["data", "show", str(w.shared.folder), f"--out={w.root}/pages"],
        "mine",
        "not a prepared set",
        "give a folder that `dedn data build` wrote",
    ),
    Bad("another build is there", _other_build, "1.0.0", "pictures differ", "--overwrite"),
]
