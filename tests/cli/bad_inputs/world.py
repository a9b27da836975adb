"""Where a row makes its bad input, and what a row is."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import scipy.io

from dedn_jax.config import load_config
from dedn_jax.data.features.store.manifest import StorePlan
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_dataset
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources import download, fetch
from dedn_jax.data.sources.published_archives import Archive
from dedn_jax.training.workdir import Workdir
from tests.helpers.published import published_fields
from tests.helpers.xlsa17 import write_tree

SIDE = 64
XLSA17 = "xlsa17/data/AWA2"


class Shared(NamedTuple):
    """What all rows may read.

    Attributes:
      folder: pictures and attributes.csv, of `picture_folder`.
      prepared: the same, built.
      weights: an `.npz` for mobilenet_v1; every value is 0.5.
      server: url of a web server.
      served: what it answers, by name.
    """

    folder: Path
    prepared: Path
    weights: Path
    server: str
    served: dict[str, bytes]


class World:
    """Where a row makes its bad input; all of it is compared with what is there afterwards.

    Attributes:
      root: the row's own folder.
      monkeypatch: for what no file can be made to do.
      during: contexts that the command runs in.
    """

    def __init__(self, root: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.shared = shared
        self.monkeypatch = monkeypatch
        self.during: list[contextlib.AbstractContextManager[Any]] = []

    # --- commands

    def train(self, *flags: str, config: str | Path = "base") -> list[str]:
        return ["train", f"--config={config}", f"--workdir={self.root}/run", *flags]

    def train_on(self, path: Path, *flags: str) -> list[str]:
        return self.train(f"--config.data.path={path}", *flags)

    def prepared_flags(self, prepared: Path | None = None) -> list[str]:
        return [
            "--config.data.format=prepared",
            f"--config.data.path={prepared or self.shared.prepared}",
            "--config.backbone.name=mobilenet_v1",
            f"--config.backbone.weights={self.shared.weights}",
            f"--config.picture.resize={SIDE}",
            f"--config.picture.crop={SIDE}",
        ]

    def train_from(self, store: Path, *flags: str) -> list[str]:
        return self.train(*self.prepared_flags(), f"--config.data.features={store}", *flags)

    def extract(self, *flags: str, prepared: Path | None = None, out: str = "store") -> list[str]:
        command = ["features", "extract", "--config=base", f"--out={self.root}/{out}"]
        return [*command, *self.prepared_flags(prepared), *flags]

    def build(self, name: str = "folder", *flags: str, root: str = "mine") -> list[str]:
        return [
            "data",
            "build",
            name,
            f"--root={self.root}/{root}",
            f"--out={self.root}/out",
            *flags,
        ]

    def check(self, name: str = "folder", *flags: str) -> list[str]:
        return ["data", "check", name, f"--root={self.root}/mine", *flags]

    # --- inputs

    def hdf5(self, **changes: Any) -> Path:
        """The published layout; a field set to None is left out."""
        path = self.root / "maps.hdf5"
        with h5py.File(path, "w") as file:
            for name, value in (published_fields() | changes).items():
                if value is not None:
                    file[name] = value
        return path

    def words(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.write_bytes(data)
        return path

    def folder(self) -> Path:
        return shutil.copytree(self.shared.folder, self.root / "mine")

    def table(self, old: str, new: str) -> list[str]:
        """`data build` with a changed line of attributes.csv."""
        path = self.folder() / "attributes.csv"
        text = path.read_text()
        assert re.search(old, text, re.M)
        path.write_text(re.sub(old, new, text, count=1, flags=re.M))
        return self.build()

    def picture(self, data: bytes, name: str = "class 1/0.jpg") -> None:
        (self.folder() / "pictures" / name).write_bytes(data)

    def tree(self, **changes: Any) -> list[str]:
        """`data build AWA2` with changed variables of its two files."""
        write_tree(self.root / "mine", "AWA2")
        for name in ("att_splits.mat", "res101.mat"):
            path = self.root / "mine" / XLSA17 / name
            there = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
            scipy.io.savemat(path, there | {k: v for k, v in changes.items() if k in there})
        return self.build("AWA2")

    def prepared(self) -> Path:
        return shutil.copytree(self.shared.prepared, self.root / "prepared")

    def store(self, shards: int | None = None, **changes: Any) -> Path:
        """A store as extraction would make it; `shards` of it, where not all."""
        prepared = open_prepared(self.shared.prepared)
        plan = StorePlan(
            **{
                "images": len(prepared.pictures),
                "channels": 4,
                "grid": (2, 2),
                "dtype": "float16",
                "normalized": True,
                "origin": "extracted",
                "pictures": prepared.digest,
                "transform": {"resize": SIDE, "crop": SIDE},
                "backbone": {"name": "mobilenet_v1", "sha256": "0" * 64, "dtype": "float32"},
                "shard_images": 10,
                **changes,
            }
        )
        with StoreWriter(self.root / "store", plan, prepared.annotations) as writer:
            for shard in writer.missing()[:shards]:
                writer.write(shard, np.ones(plan.shard_shape(shard), np.float32))
            if shards is None:
                writer.finish()
        return self.root / "store"

    def run(self, *flags: str) -> Path:
        """A work directory that was taken, of a run that did no step."""
        path = self.hdf5()
        config = load_config("base", [f"--config.data.path={path}", *flags])
        run = Workdir(self.root / "run")
        with run.locked():
            run.claim(config, load_dataset(config).fingerprint())
        return path

    def archive(self, data: bytes, sha256: str | None = None) -> list[str]:
        """`data build --download` of a set that consists of this archive."""
        self.shared.served["file.zip"] = data
        archive = Archive(f"{self.shared.server}/file.zip", "file.zip", "AWA2", sha256=sha256)
        self.monkeypatch.setattr(fetch, "ARCHIVES", {"AWA2": (archive,)})
        self.monkeypatch.setattr(download, "_BACKOFF", 0.0)
        self.monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        vectors = self.root / "mine" / "w2v" / "AWA2_attribute.pkl"
        vectors.parent.mkdir(parents=True)
        np.ones((3, 2)).dump(vectors)
        return self.build("AWA2", "--download")


class Bad(NamedTuple):
    """One bad input.

    Attributes:
      name: of the row.
      make: makes the input and gives the command line.
      file: what the message calls the file, or the flag.
      wrong: the field, and what is wrong with it.
      advice: what to do.
      left: what is there afterwards and was not before; all of it whole.
      outside: whether the command runs in a process of its own.
      needs: marker of the optional package without which the message is another one.
    """

    name: str
    make: Callable[[World], list[str]]
    file: str
    wrong: str
    advice: str
    left: tuple[str, ...] = ()
    outside: bool = False
    needs: str = ""
