"""Bad inputs through the command line: one line that says what to do, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.server
import io
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
import pytest
import scipy.io
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from dedn_jax.cli import main as cli
from dedn_jax.config import load_config
from dedn_jax.data.features.store.manifest import StorePlan
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_dataset
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources import download, fetch
from dedn_jax.data.sources.download import Archive
from dedn_jax.data.sources.folder import read_folder
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.weights import expected_arrays
from dedn_jax.training.workdir import Workdir
from tests.data.conftest import ATTRIBUTES, published_fields
from tests.data.sources.test_benchmark import cells, column, write_tree
from tests.made_up import prepared_folder
from tests.training.test_protocol import tiny_overrides, write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent
SIDE = 64
XLSA17 = "xlsa17/data/AWA2"
# A bar that was begun before the mistake was met stays on the terminal; tqdm begins each of its
# writes with a carriage return.
_BAR = re.compile(r"(\r[^\r\n]*)+\n?")


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


def _arrays(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a file of its weights, without making any."""
    return expected_arrays(nnx.eval_shape(lambda: make_backbone(backbone, "float32", nnx.Rngs(0))))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    jax.devices()  # so that what a machine's drivers have to say is said before
    root = tmp_path_factory.mktemp("shared")
    prepared = prepared_folder(root, pictures=3)
    shapes = _arrays("mobilenet_v1")
    np.savez_compressed(
        root / "weights.npz", **{name: np.full(s, 0.5, np.float32) for name, s in shapes.items()}
    )
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = served[self.path.removeprefix("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Shared(root / "mine", prepared, root / "weights.npz", url, served)
        server.shutdown()


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


# --- what rows are made of ----------------------------------------------------------------------


class _Hostile:
    """Unpickled, it would leave a file in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def _png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel: few bytes, however large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = bytes(1 + width // 8)
    pixels = zlib.compress(row * min(height, 100), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def _jpeg(side: int = 64) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(out, "JPEG", quality=90)
    return out.getvalue()


def _zip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, "x")
    return out.getvalue()


@contextlib.contextmanager
def _no_file_over(size: int) -> Iterator[None]:
    """Writing more than this to a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


# --- HDF5 ---------------------------------------------------------------------------------------


def _plus_one(world: World) -> list[str]:
    fields = published_fields()
    names = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
    return world.train_on(world.hdf5(**{n: fields[n] + 1 for n in names}))


def _overlap(world: World) -> list[str]:
    fields = published_fields()
    both = np.append(fields["test_seen_loc"], fields["trainval_loc"][:2])
    return world.train_on(world.hdf5(test_seen_loc=both))


def _unseen_trained(world: World) -> list[str]:
    fields = published_fields()
    unseen = fields["test_unseen_loc"]
    return world.train_on(
        world.hdf5(
            trainval_loc=np.append(fields["trainval_loc"], unseen[:1]), test_unseen_loc=unseen[1:]
        )
    )


def _nan_att(world: World) -> list[str]:
    att = published_fields()["att"]
    att[2, 1] = np.nan
    return world.train_on(world.hdf5(att=att))


def _nan_feature(world: World) -> list[str]:
    maps = published_fields()["feature_map"]
    maps[5, 0, 0, 0] = np.nan
    return ["features", "import", str(world.hdf5(feature_map=maps)), f"--out={world.root}/store"]


def _truncated_hdf5(world: World) -> list[str]:
    path = world.hdf5()
    path.write_bytes(path.read_bytes()[:3000])
    return world.train_on(path)


def _external(world: World) -> list[str]:
    path = world.hdf5(labels=None)
    with h5py.File(path, "a") as file:
        file["labels"] = h5py.ExternalLink("/etc/passwd", "labels")
    return world.train_on(path)


HDF5 = [
    Bad(
        "att transposed",
        lambda w: w.train_on(w.hdf5(att=published_fields()["att"].T)),
        "maps.hdf5",
        "att looks transposed",
        "store it as [classes, attributes]",
    ),
    Bad(
        "feature_map without width",
        lambda w: w.train_on(w.hdf5(feature_map=published_fields()["feature_map"][..., 0])),
        "maps.hdf5",
        "feature_map has shape (24, 8, 3)",
        "expected [images, channels, height, width]",
    ),
    Bad(
        "labels from 1",
        lambda w: w.train_on(w.hdf5(labels=published_fields()["labels"] + 1)),
        "maps.hdf5",
        "labels run from 1 to 6, expected 0 to 5",
        "they look 1-based: subtract 1",
    ),
    Bad("locations from 1", _plus_one, "maps.hdf5", "test_unseen_loc runs from", "subtract 1"),
    Bad(
        "no labels",
        lambda w: w.train_on(w.hdf5(labels=None)),
        "maps.hdf5",
        "labels is missing; the file holds att, feature_map",
        "see the README for the layout",
    ),
    Bad(
        "no test_unseen_loc",
        lambda w: ["features", "import", str(w.hdf5(test_unseen_loc=None)), f"--out={w.root}/s"],
        "maps.hdf5",
        "test_unseen_loc is missing",
        "see the README for the layout",
    ),
    Bad("HDF5 cut short", _truncated_hdf5, "maps.hdf5", "cannot be opened", "fetch it again"),
    Bad(
        "text named .hdf5",
        lambda w: w.train_on(w.words("maps.hdf5", b"<html>404</html>\n")),
        "maps.hdf5",
        "not an HDF5 file (17 bytes)",
        "set --config.data.path to the file with feature_map",
    ),
    Bad(
        "no such HDF5",
        lambda w: w.train_on(w.root / "none.hdf5"),
        "none.hdf5",
        "no such file",
        "set --config.data.path to the HDF5 file",
    ),
    Bad(
        "fewer feature maps than labels",
        lambda w: w.train_on(w.hdf5(feature_map=published_fields()["feature_map"][:-1])),
        "maps.hdf5",
        "feature_map has 23 images, labels has 24",
        "must be equal",
    ),
    Bad("NaN in att", _nan_att, "maps.hdf5", "att holds NaN", "build the file again"),
    Bad("NaN in feature_map", _nan_feature, "maps.hdf5", "image 5", "again"),
    Bad("splits overlap", _overlap, "maps.hdf5", "2 images are in both", "must not overlap"),
    Bad(
        "unseen class trained on",
        _unseen_trained,
        "maps.hdf5",
        "class 3 has images in both trainval_loc and test_unseen_loc",
        "must not be trained on",
    ),
    Bad(
        "labels of fractions",
        lambda w: w.train_on(w.hdf5(labels=published_fields()["labels"] + 0.5)),
        "maps.hdf5",
        "labels holds values that are not whole numbers",
        "build the file again",
    ),
    Bad("external link", _external, "maps.hdf5", "labels is a link", "copy it in"),
]


# --- word vectors -------------------------------------------------------------------------------


def _with_words(world: World, name: str, data: bytes) -> list[str]:
    return world.train_on(world.hdf5(), f"--config.data.word_vectors={world.words(name, data)}")


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _glove(
    world: World, glove: bytes, names: str = "blue\nwing\n", out: str = "w.npy"
) -> list[str]:
    world.words("glove.txt", glove)
    (world.root / "names.txt").write_text(names)
    flags = [f"--glove={world.root}/glove.txt", f"--attributes={world.root}/names.txt"]
    return ["data", "wordvectors", *flags, f"--out={world.root / out}"]


WORDS = [
    Bad(
        "hostile pickle of word vectors",
        lambda w: _with_words(w, "words.pkl", pickle.dumps(_Hostile())),
        "words.pkl",
        "it asks for posix.system",
        "save the array with numpy.save",
    ),
    Bad(
        "too few word vectors",
        lambda w: _with_words(w, "words.npy", _npy(np.ones((ATTRIBUTES - 1, 3)))),
        "words.npy",
        "word vectors have shape (4, 3), expected [5, word_dim]",
        "give one row for each attribute",
    ),
    Bad(
        "word vectors of objects",
        lambda w: _with_words(w, "words.npy", _npy(np.array([[_Hostile()]], object))),
        "words.npy",
        "an array of Python objects, expected numbers",
        "save it as float32",
    ),
    Bad(
        "zipped GloVe",
        lambda w: _glove(w, _zip("glove.txt")),
        "glove.txt",
        "a compressed file",
        "unpack it first",
    ),
    Bad(
        "GloVe line cut short",
        lambda w: _glove(w, b"blue 1 2 3\nwing 4 5\n"),
        "glove.txt",
        "line 2 has 2 numbers after its word, expected 3",
        "get it again",
    ),
    Bad(
        "attribute without a known word",
        lambda w: _glove(w, b"blue 1 2 3\nwing 4 5 6\n", "blue\nzygodactyl\n"),
        "glove.txt",
        "'zygodactyl'",
        "rename them or take a larger GloVe file",
    ),
    Bad(
        "attribute name twice",
        lambda w: _glove(w, b"blue 1 2 3\n", "blue\nblue\n"),
        "names.txt",
        "attribute 'blue' stands there twice",
        "rename one",
    ),
    Bad(
        "word vectors to another kind of file",
        lambda w: _glove(w, b"blue 1 2 3\nwing 4 5 6\n", out="vectors.txt"),
        "vectors.txt",
        "vectors.txt: expected",
        "a name that ends in .npy",
    ),
]


# --- xlsa17 -------------------------------------------------------------------------------------


def _mixed_up(world: World) -> list[str]:
    """res101.mat of a set with more classes and pictures."""
    command = world.tree()
    scipy.io.savemat(
        world.root / "mine" / XLSA17 / "res101.mat",
        {
            "image_files": cells([f"/x/images/{k}/{k}.jpg" for k in range(1, 31)]),
            "labels": column(range(1, 31)),
        },
    )
    return command


def _missing_pictures(world: World) -> list[str]:
    command = world.tree()
    for file in sorted((world.root / "mine" / "AWA2").rglob("*.jpg"))[:4]:
        file.unlink()
    return command


def _other_class(world: World) -> list[str]:
    labels = column(np.repeat(np.arange(1, 6), 3))
    labels[[0, 3]] = labels[[3, 0]]
    return world.tree(labels=labels)


def _damaged_mat(world: World) -> list[str]:
    command = world.tree()
    path = world.root / "mine" / XLSA17 / "att_splits.mat"
    path.write_bytes(path.read_bytes()[:400])
    return command


XLSA = [
    Bad(
        "res101.mat of another set",
        _mixed_up,
        "res101.mat",
        "labels run from 1 to 30",
        "do the two files belong",
    ),
    Bad(
        "locations from 0",
        lambda w: w.tree(trainval_loc=column([0, 1, 3, 4, 6, 7, 10, 9])),
        "att_splits.mat",
        "trainval_loc holds 0, but locations count from 1",
        "add 1 to all locations",
    ),
    Bad(
        "locations past the last picture",
        lambda w: w.tree(test_unseen_loc=column([13, 14, 16])),
        "att_splits.mat",
        "test_unseen_loc holds 16, but res101.mat has 15 images",
        "do the two files belong together?",
    ),
    Bad(
        "missing pictures", _missing_pictures, "mine/AWA2", "4 of 15 pictures are missing", "unpack"
    ),
    Bad(
        "picture in another class's folder",
        _other_class,
        "res101.mat",
        "lies in the folder of class 1 and has label 2",
        "do att_splits.mat and res101.mat belong together?",
    ),
    Bad("damaged .mat", _damaged_mat, "att_splits.mat", "cut short", "download it again"),
    Bad(
        "no splits",
        lambda w: w.check("SUN"),
        "att_splits.mat",
        "no such file",
        "see the README",
    ),
    Bad(
        "unknown data set",
        lambda w: w.build("NABirds"),
        "NABirds",
        "no data set of that name",
        "expected CUB, SUN, AWA2, AWA1, APY",
    ),
]


# --- own folders --------------------------------------------------------------------------------


def _one_picture(world: World) -> list[str]:
    folder = world.folder() / "pictures" / "class 0"
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    return world.build()


def _no_table(world: World) -> list[str]:
    (world.folder() / "attributes.csv").unlink()
    return world.build()


def _leaving_link(world: World) -> list[str]:
    (world.root / "private.jpg").write_bytes(_jpeg())
    (world.folder() / "pictures" / "class 0" / "x.jpg").symlink_to(world.root / "private.jpg")
    return world.build()


FOLDER = [
    Bad(
        "no row for a class",
        lambda w: w.table(r"^class 3,.*\n", ""),
        "pictures/class 3",
        "attributes.csv has no row for class 'class 3'",
        "add one",
    ),
    Bad(
        "a cell that is no number",
        lambda w: w.table(r"^class 2,\d", "class 2,often"),
        "attributes.csv",
        "line 4, column 'attribute 0': 'often' is not a number",
        "write one such as 0.5",
    ),
    Bad(
        "two rows for a class",
        lambda w: w.table(r"^class 4,", "class 3,"),
        "attributes.csv",
        "class 'class 3' has two rows",
        "keep one",
    ),
    Bad("one picture in a class", _one_picture, "class 0", "has 1 of the 2 pictures", "add some"),
    Bad(
        "no attributes.csv", _no_table, "attributes.csv", "no such file", "write one with a header"
    ),
    Bad("link out of the folder", _leaving_link, "x.jpg", "is a link that leaves", "copy"),
    Bad(
        "attribute alike in all classes",
        lambda w: w.table(r"(?s)\A.*", "class,a,b\nclass 0,1,1\nclass 1,1,0\n"),
        "attributes.csv",
        "attribute 'a' has the same value in all classes",
        "remove the column",
    ),
    Bad(
        "attributes alike in all classes",
        lambda w: w.table(r"(?s)\A.*", "class,a,b,c\nclass 0,1,1,2\nclass 1,1,0,2\n"),
        "attributes.csv",
        "2 attributes ('a', 'c') have the same value in all classes",
        "remove the columns",
    ),
    Bad(
        "word vectors that are not there",
        lambda w: w.build("folder", "--word-vectors=none.npy", root=w.folder().name),
        "none.npy",
        "no such file",
        "name a file for --word-vectors",
    ),
    Bad(
        "flag for benchmarks only",
        lambda w: w.build("folder", "--xlsa17=splits"),
        "--xlsa17=splits",
        "does not apply to folder, only to CUB, SUN",
        "leave it out",
    ),
    Bad(
        "flag for own classes only",
        lambda w: w.build("CUB", "--seed=0"),
        "--seed=0",
        "does not apply to CUB, only to folder",
        "leave it out",
    ),
    Bad(
        "word vectors for the demo",
        lambda w: w.check("demo", "--word-vectors=a.npy"),
        "--word-vectors=a.npy",
        "does not apply to demo",
        "leave it out",
    ),
    Bad(
        "no folder",
        lambda w: w.build(root="nowhere"),
        "nowhere",
        "no such folder",
        "give the one that holds pictures/",
    ),
]


# --- pictures -----------------------------------------------------------------------------------


def _build_with(world: World, data: bytes, name: str = "class 1/0.jpg") -> list[str]:
    world.picture(data, name)
    return world.build()


def _check_with(world: World, data: bytes, name: str = "class 1/0.jpg") -> list[str]:
    world.picture(data, name)
    return world.check()


def _extract_with(world: World, data: bytes, name: str) -> list[str]:
    """From a prepared set that holds the picture, as sets of benchmarks may: they are not read."""
    world.picture(data, name)
    found = read_folder(world.root / "mine")
    unread = [dataclasses.replace(p, upright=False) for p in found.pictures]
    build(dataclasses.replace(found, pictures=unread), world.root / "out")
    return world.extract(prepared=world.root / "out" / "mine")


def _show_with(world: World, data: bytes) -> list[str]:
    _extract_with(world, data, "class 1/0.jpg")
    return ["data", "show", f"{world.root}/out/mine", f"--out={world.root}/pages"]


PICTURES = [
    Bad(
        "truncated JPEG at check",
        lambda w: _check_with(w, _jpeg()[:2000]),
        "class 1/0.jpg",
        "1 of 24 pictures cannot be used; the first is pictures/class 1/0.jpg: the picture is cut",
        "fetch the file again",
    ),
    Bad(
        "text named .jpg at check",
        lambda w: _check_with(w, b"not a picture"),
        "class 1/0.jpg",
        "1 of 24 pictures cannot be used; the first is pictures/class 1/0.jpg: no picture in a",
        "fetch the file again, or convert it",
    ),
    Bad(
        "text named .jpg at build",
        lambda w: _build_with(w, b"not a picture"),
        "class 1/0.jpg",
        "no picture in a known format",
        "fetch the file again, or convert it",
    ),
    Bad(
        "empty picture",
        lambda w: _build_with(w, b""),
        "class 1/0.jpg",
        "is empty",
        "fetch the picture again or remove it",
    ),
    Bad(
        "decompression bomb at check",
        lambda w: _check_with(w, _png(9500, 9500), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (9500 x 9500 pixels, expected at most 80000000)",
        "scale it down or remove it",
        outside=True,  # Pillow warns of pictures of this size; the tests' filters would hide it
    ),
    Bad(
        "decompression bomb at build",
        lambda w: _build_with(w, _png(30000, 30000), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (Image size (900000000 pixels) exceeds limit",
        "scale it down or remove it",
    ),
    Bad(
        "truncated JPEG at extraction",
        lambda w: _extract_with(w, _jpeg()[:2000], "class 1/0.jpg"),
        "class 1/0.jpg",
        "the picture is cut short",
        "fetch the file again",
    ),
    Bad(
        "decompression bomb at extraction",
        lambda w: _extract_with(w, _png(9000, 8900), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (9000 x 8900 pixels, expected at most 80000000)",
        "scale it down or remove it",
    ),
    Bad(
        "thin strip in contact sheets",
        lambda w: _show_with(w, _png(8000, 8)),
        "class 1/0.jpg",
        "8000 x 8 pixels",
        "crop or remove it",
    ),
]


# --- archives -----------------------------------------------------------------------------------

# It is whole: what to do with it is up to whoever asked for it.
_DOWNLOADED = ("mine/downloads", "mine/downloads/file.zip")
ARCHIVES = [
    Bad(
        "archive that leaves its folder",
        lambda w: w.archive(_zip("../../evil.txt")),
        "file.zip",
        "'../../evil.txt' leaves its folder by '..'",
        "remove it and get the publisher's archive",
        left=_DOWNLOADED,
    ),
    Bad(
        "archive of another hash",
        lambda w: w.archive(_zip("a.txt"), sha256="0" * 64),
        "file.zip",
        "expected 0000",
        "removed, try again",
    ),
    Bad(
        "download of a set that is not served",
        lambda w: w.build("AWA1", "--download"),
        "--download",
        "does not apply to AWA1, only to CUB, SUN, AWA2",
        "leave it out",
    ),
    Bad(
        "hash without a file",
        lambda w: [*w.archive(b""), f"--sha256={'0' * 64}"],
        "--sha256",
        "expected a file name, =",
        "64 hexadecimal digits",
    ),
    Bad(
        "hash of no archive",
        lambda w: [*w.archive(b""), f"--sha256=x.zip={'0' * 64}"],
        "AWA2",
        "has no archive 'x.zip' to check",
        "expected file.zip",
    ),
    Bad(
        "hash without a download",
        lambda w: w.build("CUB", f"--sha256=x.zip={'0' * 64}"),
        "--sha256",
        "is about archives that are downloaded",
        "add --download, or leave it out",
    ),
    Bad(
        "archive of another hash than asked",
        lambda w: [*w.archive(_zip("a.txt")), f"--sha256=file.zip={'1' * 64}"],
        "file.zip",
        "expected 1111",
        "removed, try again",
    ),
    Bad(
        "download without word vectors",
        lambda w: w.build("CUB", "--download"),
        "w2v/CUB_attribute.pkl",
        "no such file",
        "make some with `dedn data wordvectors`",
    ),
    Bad(
        "archive that is a web page",
        lambda w: w.archive(b"<html>sign in</html>"),
        "file.zip",
        "is no zip, tar or gzipped tar",
        "remove it and download it again",
        left=_DOWNLOADED,
    ),
]


# --- backbones ----------------------------------------------------------------------------------


def _other_depth(world: World) -> list[str]:
    """The names of resnet34; its sizes are not looked at, being other names."""
    names = _arrays("resnet34")
    path = world.root / "resnet34.safetensors"
    save_file({name: np.zeros(1, np.float32) for name in names}, str(path))
    return world.extract("--config.backbone.name=resnet18", f"--config.backbone.weights={path}")


def _hostile_weights(world: World) -> list[str]:
    path = world.words("resnet18.pth", pickle.dumps({"conv1.weight": _Hostile()}))
    return world.extract("--config.backbone.name=resnet18", f"--config.backbone.weights={path}")


def _weights(world: World, name: str, data: bytes) -> list[str]:
    return world.extract(f"--config.backbone.weights={world.words(name, data)}")


BACKBONES = [
    Bad(
        "weights of another depth",
        _other_depth,
        "resnet34.safetensors",
        "has unexpected layer1.2",
        "check that the file is for the backbone in the config",
    ),
    Bad(
        "hostile weights",
        _hostile_weights,
        "resnet18.pth",
        "refused by PyTorch's weights-only reader",
        "save it again with torch.save(model.state_dict())",
        needs="torch",
    ),
    Bad(
        "no such weights",
        lambda w: w.extract("--config.backbone.weights=none.npz"),
        "none.npz",
        "no such file of backbone weights",
        "set --config.backbone.weights",
    ),
    Bad(
        "damaged .npz",
        lambda w: _weights(w, "w.npz", b"PK\3\4 not"),
        "w.npz",
        "not a readable .npz",
        "get it again",
    ),
    Bad(
        "damaged .safetensors",
        lambda w: _weights(w, "w.safetensors", b"\xff" * 99),
        "w.safetensors",
        "not a readable .safetensors file",
        "get it again",
    ),
    Bad(
        "weights in another format",
        lambda w: _weights(w, "w.h5", b"\x89HDF"),
        "w.h5",
        "w.h5: expected",
        "a file of weights named .pth, .pt, .safetensors, .npz",
    ),
    Bad(
        "weights for the small backbone",
        lambda w: w.extract("--config.backbone.name=small"),
        "weights.npz",
        "no files of weights are known for a SmallNet",
        "another --config.backbone.name",
    ),
    Bad(
        "extraction without weights",
        lambda w: w.extract("--config.backbone.weights="),
        "config.backbone.weights",
        "is empty",
        "set it to a .pth",
    ),
    Bad(
        "frozen backbone without weights",
        lambda w: w.train(
            *w.prepared_flags(), "--config.data.source=images", "--config.backbone.weights="
        ),
        "config.backbone.weights",
        "a frozen backbone without trained weights",
        "--config.backbone.trained=true",
    ),
    Bad(
        "unknown backbone",
        lambda w: w.extract("--config.backbone.name=vgg16"),
        "backbone",
        "'vgg16'",
        "expected one of resnet18",
    ),
]


# --- feature stores and prepared sets -----------------------------------------------------------


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
    (world.root / "mine" / "pictures" / "class 0" / "0.jpg").write_bytes(_jpeg())
    return world.build()


STORES = [
    Bad(
        "store of another transform",
        lambda w: w.train_from(w.store(transform={"resize": 448, "crop": 448})),
        "/store",
        "another transform of the pictures (transform.resize=448, asked is 64",
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
        "is not complete: 1 of 3 shards",
        "give `dedn features extract` again",
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
        "holds no version of a prepared set",
        "give a folder that `dedn data build` wrote",
    ),
    Bad("another build is there", _other_build, "1.0.0", "pictures differ", "--overwrite"),
]


# --- configs and work directories ---------------------------------------------------------------


def _recipe(world: World, text: str, name: str = "recipe.py") -> list[str]:
    path = world.root / name
    path.write_text(text)
    return world.train(config=path)


def _base_with(line: str) -> str:
    return (
        "from dedn_jax.config import base_config\n"
        f"def get_config():\n    c = base_config()\n    {line}\n    return c\n"
    )


def _another_run(world: World) -> list[str]:
    path = world.run()
    return world.train_on(path, "--config.seed=3")


def _another_set(world: World) -> list[str]:
    path = world.run()
    world.hdf5(att=published_fields()["att"] * 2)
    return world.train_on(path)


def _unfinished(world: World, *command: str) -> list[str]:
    world.run()
    return [*command, f"--workdir={world.root}/run"]


def _foreign(world: World) -> list[str]:
    (world.root / "run").mkdir()
    (world.root / "run" / "thesis.tex").write_text("x")
    return world.train_on(world.hdf5())


def _damaged_config(world: World) -> list[str]:
    world.run()
    (world.root / "run" / "config.json").write_text('{"seed": 0,')
    return ["evaluate", f"--workdir={world.root}/run"]


CONFIGS = [
    Bad(
        "unknown field in a recipe",
        lambda w: _recipe(w, _base_with("c.train.epoch = 3")),
        "recipe.py",
        'Key "epoch" does not exist',
        'Did you mean "epochs"',
    ),
    Bad(
        "unknown field in a flag",
        lambda w: w.train("--config.train.epoch=3"),
        "--config.train.epoch=3",
        "cannot apply",
        'Did you mean "epochs"',
    ),
    Bad(
        "field of another type",
        lambda w: _recipe(
            w,
            _base_with("c.unlock(); del c.train['epochs']; c.train.epochs = 'many'"),
        ),
        "recipe.py",
        "config.train.epochs='many'",
        "expected a int",
    ),
    Bad(
        "value out of range",
        lambda w: w.train("--config.train.batch_size=0"),
        "base.py",
        "config.train.batch_size=0",
        "expected at least 1",
    ),
    Bad(
        "pictures from a file of features",
        lambda w: w.train_on(w.hdf5(), "--config.data.source=images"),
        "base.py",
        "config.data.source='images'",
        "expected features with config.data.format=published_hdf5",
    ),
    Bad(
        "recipe that is no Python",
        lambda w: _recipe(w, "train:\n  epochs: 3\n"),
        "recipe.py",
        "cannot be run: SyntaxError",
        "a recipe is a Python file as configs/base.py is one",
    ),
    Bad(
        "recipe of another kind",
        lambda w: _recipe(w, "train:\n  epochs: 3\n", "recipe.yaml"),
        "recipe.yaml",
        "is not a Python file",
        "a recipe is a Python file as configs/base.py is one",
    ),
    Bad(
        "recipe without get_config",
        lambda w: _recipe(w, "x = 1\n"),
        "recipe.py",
        "has no function get_config()",
        "a recipe is a Python file as configs/base.py is one",
    ),
    Bad(
        "no such recipe",
        lambda w: w.train(config="cup_gzsl"),
        "--config",
        "no file 'cup_gzsl'",
        "give a path, or one of",
    ),
    Bad(
        "groups past the last attribute",
        lambda w: w.train_on(w.hdf5(), "--config.data.groups=0-2;3-9"),
        "config.data.groups",
        "attribute 9 in '0-2;3-9', but the data have only 5 (0-based)",
        "give each of them once",
    ),
    Bad(
        "work directory of another run",
        _another_run,
        "/run",
        "seed=0 there, 3 now",
        "choose another directory, remove this one, or give the same config",
    ),
    Bad("work directory of other data", _another_set, "/run", "class_embeddings", "choose another"),
    Bad("work directory with files", _foreign, "/run", "is not empty", "choose another"),
    Bad(
        "evaluation before training",
        lambda w: _unfinished(w, "evaluate"),
        "/run",
        "no trained model here",
        "finish `dedn train` first",
    ),
    Bad(
        "evaluation of hostile weights",
        lambda w: _unfinished(
            w, "evaluate", f"--weights={w.words('model.pt', pickle.dumps(_Hostile()))}"
        ),
        "model.pt",
        "not a zip archive as torch.save writes it",
        "save its state_dict() again",
        needs="torch",
    ),
    Bad(
        "evaluation under another config",
        lambda w: _unfinished(w, "evaluate", "--config.seed=4"),
        "--config.seed=4",
        "would make it another run",
        "only backbone.weights, data.features,",
    ),
    Bad(
        "evaluation of no run",
        lambda w: ["evaluate", f"--workdir={w.root}/run"],
        "/run",
        "holds no run (no config.json)",
        "give the directory of a `dedn train`",
    ),
    Bad("damaged config of a run", _damaged_config, "config.json", "JSON", "restore or remove it"),
    Bad(
        "export to another kind of file",
        lambda w: _unfinished(w, "export", f"--out={w.root}/model.npz"),
        "model.npz",
        "model.npz: expected",
        "a name that ends in .pt",
    ),
]


# --- disks --------------------------------------------------------------------------------------


def _limited(world: World, size: int, command: list[str]) -> list[str]:
    world.during.append(_no_file_over(size))
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
        "see to its permissions and free space",
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
        "make room, or choose another folder",
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
        lambda w: _full_disk(w, _glove(w, b"blue 1 2\nwing 3 4\n")),
        "w.npy",
        "No space left on device",
        "make room and give the command again",
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
        lambda w: _read_only(w, "", _unfinished(w, "export", f"--out={w.root}/m.pt")),
        "m.pt",
        "is no folder that can be written to",
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

TABLE = [
    *HDF5,
    *WORDS,
    *XLSA,
    *FOLDER,
    *PICTURES,
    *ARCHIVES,
    *BACKBONES,
    *STORES,
    *CONFIGS,
    *DISKS,
]
_messages: dict[str, str] = {}


def listing(folder: Path) -> dict[str, object]:
    """What is in a folder: every file's bytes, every link's target; compiled programs left out."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if ".compilation_cache" in path.parts:
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def test_rows_have_names_of_their_own_and_say_all() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE) >= 35
    assert all(row.file and row.wrong and row.advice for row in TABLE)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=getattr(pytest.mark, row.needs) if row.needs else ())
        for row in TABLE
    ],
)
def test_one_line_that_says_what_to_do(
    row: Bad,
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = World(tmp_path, shared, monkeypatch)
    monkeypatch.chdir(tmp_path)
    argv = row.make(world)
    before = listing(tmp_path)
    capfd.readouterr()
    if row.outside:
        command = [sys.executable, "-m", "dedn_jax", *argv]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
        status, printed = done.returncode, _BAR.sub("", done.stderr.decode())
    else:
        with contextlib.ExitStack() as stack:
            told = stack.enter_context(warnings.catch_warnings(record=True))
            for context in world.during:
                stack.enter_context(context)
            status = cli.main(argv)
        printed = _BAR.sub("", capfd.readouterr().err)
        # Each would be lines on standard error. Python itself shows no one else's deprecations.
        hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning)
        assert not [w.message for w in told if not issubclass(w.category, hidden)]
    monkeypatch.undo()
    assert status == 2
    assert printed.startswith("dedn: ")
    assert printed.endswith("\n") and printed.count("\n") == 1
    for part in (row.file, row.wrong, row.advice):
        assert part in printed
    after = listing(tmp_path)
    assert set(after) - set(before) == set(row.left)
    assert {name: after[name] for name in after if name not in row.left} == before
    message = re.sub(r"/[^\s:;,()]+", "PATH", printed)
    assert _messages.setdefault(message, row.name) == row.name


def test_full_disk_at_a_checkpoint(
    shared: Shared, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The one output that stays: a run that the same command takes up once there is room."""
    flags = tiny_overrides(
        write_tiny(tmp_path / "tiny.hdf5"),
        selection__protocol="last",
        train__epochs=2,
        train__checkpoint_every=3,
    )
    command = ["train", "--config=base", f"--workdir={tmp_path}/run", *flags]
    with _no_file_over(9000):
        assert cli.main(command) == 2
    printed = _BAR.sub("", capfd.readouterr().err)
    assert printed.startswith(f"dedn: {tmp_path}/run/final/checkpoints: cannot be written (")
    assert "File too large" in printed
    assert "make room and give the same command" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run" / "result.json").exists()
    assert cli.main(command) == 0
    assert (tmp_path / "run" / "result.json").exists()
