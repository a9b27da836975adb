"""Disks that are full, and folders that cannot be written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.cli.bad_inputs.rows.configs import unfinished
from tests.cli.bad_inputs.rows.word_vectors import glove
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.disks import no_file_over


def _full_disk(world: World, command: list[str]) -> list[str]:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # Where atomic writes learn of it.
    world.monkeypatch.setattr("dedn_jax.files.os.fsync", fail)
    return command


def _read_only(world: World, folder: str, command: list[str]) -> list[str]:
    """Permissions do not bind root: the system is asked as anyone else would find it."""
    there = os.access
    denied = world.root / folder
    world.monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != denied and there(p, mode))
    return command


def _limited(world: World, size: int, command: list[str]) -> list[str]:
    world.during.append(no_file_over(size))
    return command


def _build(world: World) -> list[str]:
    world.folder()
    return world.build()


def _below_a_file(world: World, command: list[str]) -> list[str]:
    """What is to be written lies below a file."""
    world.words("file", b"x")
    here, below = f"={world.root}/", f"={world.root}/file/"
    outputs = ("--out", "--workdir")
    return [a.replace(here, below) if a.startswith(outputs) else a for a in command]


def _import_float32(world: World) -> list[str]:
    """Its annotations and plan are smaller than its shard."""
    return ["features", "import", str(world.hdf5()), f"--out={world.root}/store", "--dtype=float32"]


def _run_folder(world: World) -> list[str]:
    (world.root / "run").mkdir()
    return world.train_on(world.hdf5())


DISKS = [
    Bad(
        "full disk at build",
        lambda w: _limited(w, 2000, _build(w)),
        "out/mine",
        "File too large",
        "allow larger files (ulimit -f), or choose another folder",
    ),
    Bad(
        "full disk at the end of a build",
        lambda w: _full_disk(w, _build(w)),
        "out/mine",
        "No space left on device",
        "make room, or choose another folder",
    ),
    Bad(
        "full disk at extraction",
        lambda w: _full_disk(w, w.extract()),
        "/store",
        "No space left on device",
        "make room, or choose another folder",
    ),
    Bad(
        "full disk at import",
        lambda w: _limited(w, 4000, _import_float32(w)),
        "/store",
        "File too large",
        "allow larger files (ulimit -f), or choose another folder",
    ),
    Bad(
        "full disk at training",
        lambda w: _full_disk(w, w.train_on(w.hdf5())),
        "--workdir",
        "No space left on device",
        "make room, or choose another",
    ),
    Bad(
        "full disk at word vectors",
        lambda w: _full_disk(w, glove(w, b"blue 1 2\nwing 3 4\n")),
        "w.npy",
        "No space left on device",
        "make room, and give the command again",
    ),
    Bad(
        "work directory without permission",
        lambda w: _read_only(w, "run", _run_folder(w)),
        "/run",
        "cannot be written to",
        "choose another",
    ),
    Bad(
        "export without permission",
        lambda w: _read_only(w, "", unfinished(w, "export", f"--out={w.root}/m.pt")),
        "m.pt",
        "is not a writable folder",
        "choose another",
    ),
    Bad(
        "build below a file",
        lambda w: _below_a_file(w, _build(w)),
        "/out",
        "Not a directory",
        "choose another folder",
    ),
    Bad(
        "store below a file",
        lambda w: _below_a_file(w, w.extract()),
        "/store",
        "Not a directory",
        "choose another folder",
    ),
    Bad(
        "run below a file",
        lambda w: _below_a_file(w, w.train_on(w.hdf5())),
        "/run",
        "Not a directory",
        "choose another",
    ),
]
