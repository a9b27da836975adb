"""Files of other people: links, pipes, code, and JSON without end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.bad_inputs.rows.configs import unfinished
from tests.cli.bad_inputs.world import Bad, World


def _evaluate(world: World, name: str, text: str) -> list[str]:
    command = unfinished(world, "evaluate")
    (world.root / "run" / name).write_text(text)
    return command


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _pipe_for_config(world: World) -> list[str]:
    command = unfinished(world, "evaluate")
    _pipe(world.root / "run" / "dataset.json")
    return command


def _pipe_for_shard(world: World) -> list[str]:
    shard = world.store() / "shard-00001-of-00003.npy"
    _pipe(shard)
    return ["features", "check", str(shard.parent)]


def _link_in_run(world: World) -> list[str]:
    command = unfinished(world, "evaluate")
    (world.root / "elsewhere").mkdir()
    (world.root / "run" / "tensorboard").symlink_to(world.root / "elsewhere")
    return command


def _code_in_features(world: World) -> list[str]:
    path = next(world.prepared().rglob("features.json"))
    text = json.loads(path.read_text())
    text["featuresDict"]["features"]["label"]["pythonClassName"] = "owned.Features"
    path.write_text(json.dumps(text))
    (world.root / "owned.py").write_text("open('owned', 'w')")
    return ["data", "show", str(path.parent), f"--out={world.root}/pages"]


def _device_for_features(world: World) -> list[str]:
    (world.root / "maps.hdf5").symlink_to("/dev/zero")
    return world.train_on(world.root / "maps.hdf5")


OTHER_PEOPLES = [
    Bad(
        "config nested without end",
        lambda w: _evaluate(w, "config.json", '{"a":' * 100_000),
        "config.json",
        "nested more than",
        "restore or remove it",
    ),
    Bad(
        "data set's sizes of 100,000 digits",
        lambda w: _evaluate(w, "dataset.json", '{"images": ' + "1" * 100_000 + "}"),
        "dataset.json",
        "a whole number of 100000 digits",
        "restore or remove it",
    ),
    Bad(
        "result that is a list",
        lambda w: _evaluate(w, "result.json", "[1]"),
        "result.json",
        "holds a list",
        "expected a JSON object",
    ),
    Bad(
        "pipe in a run",
        _pipe_for_config,
        "dataset.json",
        "a pipe or socket",
        "expected files and folders; remove it",
    ),
    Bad(
        "pipe for a shard",
        _pipe_for_shard,
        "shard-00001-of-00003.npy",
        "a pipe or socket",
        "expected a regular file",
    ),
    Bad(
        "link out of a run",
        _link_in_run,
        "run/tensorboard",
        "a link out of",
        "replace it by what it links to",
    ),
    Bad(
        "code in features.json",
        _code_in_features,
        "features.json",
        "'owned.Features', expected one of tensorflow_datasets",
        "build the set again",
    ),
    Bad(
        "device for feature maps",
        _device_for_features,
        "maps.hdf5",
        "a device or pipe",
        "set --config.data.path",
    ),
    Bad(
        "more epochs than anyone has",
        lambda w: w.train("--config.train.epochs=1" + "0" * 21),
        "recipe base: config.train.epochs=1000",
        "expected at most 1000000",
        "at most",
    ),
    Bad(
        "rank beyond memory",
        lambda w: w.train("--config.model.rank=1000000000"),
        "config.model.rank=1000000000",
        "expected at most 4096",
        "at most",
    ),
]
