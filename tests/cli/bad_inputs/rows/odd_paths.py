"""Paths that nobody expects: links in circles, pipes, names that are not UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.bad_inputs.world import Bad, World

_NOT_UTF8 = os.fsdecode(b"a\xffb")


def _circle(world: World) -> Path:
    path = world.root / "circle"
    path.symlink_to(path.name)
    return path


def _pipe(world: World, name: str) -> Path:
    path = world.root / name
    os.mkfifo(path)
    return path


def _build(world: World, out: Path) -> list[str]:
    world.folder()
    return ["data", "build", "folder", f"--root={world.root}/mine", f"--out={out}"]


def _train_in(world: World, workdir: Path) -> list[str]:
    flags = [a for a in world.train_on(world.hdf5()) if not a.startswith("--workdir")]
    return [*flags, f"--workdir={workdir}"]


ODD_PATHS = [
    Bad(
        "work directory in a circle of links",
        lambda w: _train_in(w, _circle(w)),
        "circle",
        "a link that leads round in a circle",
        "remove it",
    ),
    Bad(
        "work directory that is not UTF-8",
        lambda w: _train_in(w, w.root / _NOT_UTF8),
        r"a\udcffb'",
        "not UTF-8, where checkpoints cannot be written",
        "choose another",
    ),
    Bad(
        "built set that is not UTF-8",
        lambda w: _build(w, w.root / _NOT_UTF8),
        r"a\udcffb/mine'",
        "not UTF-8, where prepared sets cannot be written",
        "choose another",
    ),
    Bad(
        "pipe for a list of test pictures",
        lambda w: (w.folder(), w.build("folder", f"--test-list={_pipe(w, 'test.txt')}"))[1],
        "test.txt",
        "a pipe or socket, expected a regular file",
        "expected one picture, class/file, a line",
    ),
]
