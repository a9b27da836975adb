"""Every kind of file that is read: good ones to damage, and what is done with them."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io
from PIL import Image
from safetensors.numpy import save_file

from dedn_jax.config import load_config
from dedn_jax.data.features.store.manifest import StorePlan
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.data.features.store.verification import verify
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_dataset
from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources.archives import unpack
from dedn_jax.data.sources.class_embeddings import read_class_embeddings
from dedn_jax.data.sources.folder import read_folder
from dedn_jax.data.sources.glove import word_vectors_from_glove
from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.files import read_json, write_json
from dedn_jax.inference.classes_file import read_classes
from dedn_jax.inference.explain.part_files import read_parts
from dedn_jax.inference.export.safetensors import export_safetensors, read_safetensors
from dedn_jax.inference.report.figures import draw_learning
from dedn_jax.inference.report.write import _learning, write_sweep_report
from dedn_jax.inference.run import open_run, train
from dedn_jax.json_values import BOOLEAN, record, whole
from dedn_jax.model.backbones.weights import read_weights
from dedn_jax.sweep.report import SHARED, summary
from dedn_jax.sweep.report import result_text as sweep_text
from dedn_jax.sweep.result_file import read_sweep_result
from dedn_jax.training.logs import drop_after
from dedn_jax.training.protocol import result_text
from dedn_jax.training.saved_kinds import PHASE, best
from tests.helpers.tiny import light_config, tiny_config, write_tiny
from tests.made_up import prepared_folder


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
      make: writes good files into a folder.
      files: the names of those that are damaged.
      read: does with the folder what a command would.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], object]


# --- runs and sweeps ----------------------------------------------------------------------------


def _make_run(folder: Path) -> None:
    data = write_tiny(folder / "tiny.hdf5")
    config = light_config(data, selection__protocol="validation", train__epochs=1)
    run = train(config, folder / "run")
    export_safetensors(run, folder / "run" / "model.safetensors")


def _read_run(folder: Path) -> None:
    run = open_run(folder / "run")
    result_text(run.result)
    run.mixing()
    run.workdir.check_fingerprint(run.dataset.fingerprint())
    for name in ("validation", "final"):
        read_json(run.workdir.phase(name) / "result.json", PHASE)
    draw_learning([_learning("run", run)])
    drop_after(run.workdir.metrics_file, "final", 1, True)
    read_safetensors(run, folder / "run" / "model.safetensors")


def _make_sweep(folder: Path) -> None:
    """Made up: training takes most of the time of a short test."""
    config = tiny_config(write_tiny(folder / "tiny.hdf5"))
    fused = {metric: summary([40.0, 50.0]) for metric in ("U", "S", "H", "T1")}
    point = {"selected_by": "validation classes", "diverged_at": [None, 7], "fused": fused}
    points = [point | {"fields": {"loss.bias": bias}} for bias in (0.5, 1.0)]
    grid = [p["fields"] for p in points]
    data = {"images": 96, "labels": "0123456789abcdef"}
    identity = {"config": config.to_dict(), "seeds": 2, "grid": grid, "dataset": data}
    result = {"seeds": [0, 1], "shared": SHARED, "points": points}
    for name, value in (("sweep.json", identity), ("result.json", result)):
        write_json(folder / "sweep" / name, value)


def _read_sweep(folder: Path) -> None:
    sweep_text(read_sweep_result(folder / "sweep" / "result.json"), show_test=True)
    write_sweep_report(folder / "sweep", folder / "report")


_POSITION = record({"best": best("H")}, {"step": whole(0), "evaluation_due": BOOLEAN})


def _make_position(folder: Path) -> None:
    metrics = {"fused": dict.fromkeys(("U", "S", "H", "T1"), 50.0)}
    chosen = {"step": 2, "metrics": metrics, "t1": {"T1": 50.0, "step": 2}}
    position = {"step": 3, "best": chosen, "evaluation_due": False}
    (folder / "position.json").write_text(json.dumps(position))


# --- stores and prepared sets -------------------------------------------------------------------


def _make_prepared(folder: Path) -> None:
    made = prepared_folder(folder / "work", pictures=2)
    shutil.copytree(made, folder / "mine" / "1.0.0")
    prepared = open_prepared(folder / "mine")
    plan = StorePlan(
        images=len(prepared.pictures),
        channels=4,
        grid=(2, 2),
        dtype="float16",
        normalized=True,
        origin="extracted",
        pictures=prepared.digest,
        transform={"resize": 64, "crop": 64},
        backbone={"name": "mobilenet_v1", "sha256": "0" * 64, "dtype": "float32"},
        shard_images=10,
    )
    with StoreWriter(folder / "store", plan, prepared.annotations) as writer:
        for shard in writer.missing():
            writer.write(shard, np.ones(plan.shard_shape(shard), np.float32))
        writer.finish()
    shutil.rmtree(folder / "work")


def _read_prepared(folder: Path) -> None:
    prepared = open_prepared(folder / "mine")
    for image in range(0, len(prepared.pictures), 5):
        decode(*prepared.pictures[image])


def _read_store(folder: Path) -> None:
    store = open_store(folder / "store")
    verify(store)
    store.features().load_into_memory()


# --- arrays and weights -------------------------------------------------------------------------


def _make_hdf5(folder: Path) -> None:
    write_tiny(folder / "tiny.hdf5")


def _read_hdf5(folder: Path) -> None:
    load_dataset(load_config("base", {"data.path": folder / "tiny.hdf5"}))


def _make_mat(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.empty((3, 1), object)
    names[:, 0] = ["ox", "bat", "rat"]
    values = {
        "att": rng.random((4, 3)),
        "labels": np.arange(9)[:, None],
        "allclasses_names": names,
    }
    scipy.io.savemat(folder / "plain.mat", values)
    scipy.io.savemat(folder / "packed.mat", values, do_compression=True)
    with h5py.File(folder / "v73.mat", "w", userblock_size=512) as file:
        for name in ("att", "labels"):
            file[name] = values[name]
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    data = (folder / "v73.mat").read_bytes()
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (folder / "v73.mat").write_bytes(head.ljust(512, b"\0") + data[512:])


def _read_mat(folder: Path) -> None:
    for name in ("plain.mat", "packed.mat", "v73.mat"):
        read_mat(folder / name, ("att",), ("labels", "allclasses_names"))


_WORD_FILES = ("glove.txt", "glove.txt.gz", "glove.zip", "words.bin", "dict.pkl")


def _make_words(folder: Path) -> None:
    vectors = np.random.default_rng(0).random((4, 5))
    np.save(folder / "words.npy", vectors)
    for protocol in (0, 2, 4):
        (folder / f"words{protocol}.pkl").write_bytes(pickle.dumps(vectors, protocol))
    np.save(folder / "classes.npy", vectors)
    by_word = dict(zip("abcd", vectors, strict=True))
    lines = [f"{w} " + " ".join(f"{x:.4f}" for x in v) + "\n" for w, v in by_word.items()]
    text = "".join(lines).encode()
    (folder / "glove.txt").write_bytes(text)
    (folder / "glove.txt.gz").write_bytes(gzip.compress(text, mtime=0))
    with zipfile.ZipFile(folder / "glove.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("glove.txt", text)
    rows = [w.encode() + b" " + v.astype("<f4").tobytes() + b"\n" for w, v in by_word.items()]
    (folder / "words.bin").write_bytes(b"4 5\n" + b"".join(rows))
    (folder / "dict.pkl").write_bytes(pickle.dumps(by_word, 4))


def _read_words(folder: Path) -> None:
    for name in ("words.npy", "words0.pkl", "words2.pkl", "words4.pkl"):
        read_word_vectors(folder / name, 4)
    read_class_embeddings(folder / "classes.npy", ("a", "b", "c", "d"))
    for name in _WORD_FILES:
        word_vectors_from_glove(folder / name, ["a b", "c", "d"])


def _pickled_tensor() -> bytes:
    numbers = b"(" + b"".join(b"J" + struct.pack("<i", v) for v in (2, 3)) + b"t"
    strides = b"(" + b"".join(b"J" + struct.pack("<i", v) for v in (3, 1)) + b"t"
    storage = b"ctorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuJ" + struct.pack("<i", 6) + b"tQ"
    return (
        b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
        + storage
        + b"J\0\0\0\0"
        + numbers
        + strides
        + b"\x89)tRs."
    )


def _make_weights(folder: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    save_file(arrays, str(folder / "weights.safetensors"))
    np.savez(folder / "weights.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    with zipfile.ZipFile(folder / "new.pt", "w") as file:
        file.writestr("model/data.pkl", _pickled_tensor())
        file.writestr("model/byteorder", "little")
        file.writestr("model/data/0", arrays["w"].tobytes())
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [*(pickle.dumps(part, 2) for part in header), _pickled_tensor(), pickle.dumps(["0"], 2)]
    old = b"".join(parts) + struct.pack("<q", 6) + arrays["w"].tobytes()
    (folder / "old.pt").write_bytes(old)


_WEIGHTS = ("weights.safetensors", "weights.npz", "packed.npz", "new.pt", "old.pt")


def _read_weights(folder: Path) -> None:
    for name in _WEIGHTS:
        read_weights(folder / name)


# --- archives, pictures, tables -----------------------------------------------------------------


def _make_archives(folder: Path) -> None:
    (folder / "in" / "CUB" / "images").mkdir(parents=True)
    for i in range(3):
        (folder / "in" / "CUB" / "images" / f"{i}.txt").write_text(f"{i}" * 2000)
    (folder / "in" / "CUB" / "link").symlink_to("images/1.txt")
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "in" / "CUB", "CUB")
    with tarfile.open(folder / "a.tgz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder / "in" / "CUB", "C" * 150)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            file.writestr(f"CUB/images/{i}.txt", f"{i}" * 2000)
    shutil.rmtree(folder / "in")


_ARCHIVES = ("a.tar", "a.tgz", "a.zip")


def _read_archives(folder: Path) -> None:
    for name in _ARCHIVES:
        unpack(folder / name, folder / f"out-{name}", limit_bytes=2**26)


_PICTURES = ("a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif", "palette.png")


def _make_pictures(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 36, 3), np.uint8)
    picture = Image.fromarray(noise)
    for name in _PICTURES:
        (picture.quantize(16) if name.startswith("palette") else picture).save(folder / name)


def _read_pictures(folder: Path) -> None:
    for name in _PICTURES:
        decode((folder / name).read_bytes(), name, upright=True)


def _make_tables(folder: Path) -> None:
    mine = folder / "mine"
    for k in ("ox", "bat", "rat"):
        (mine / "pictures" / k).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (i, 0, len(k))).save(mine / "pictures" / k / f"{i}.png")
    (mine / "attributes.csv").write_text(
        "class,fur,horns,split\nox,1,1,seen\nbat,1,0,seen\nrat,1,0.5,unseen\n"
    )
    (mine / "groups.csv").write_text("attribute,group\nfur,body\nhorns,head\n")
    (folder / "classes.csv").write_text("name,fur,horns\nyak,1,0.9\nemu,0,0\n")
    (folder / "images.txt").write_text("1 a/b.jpg\n2 a/c.jpg\n")
    (folder / "bounding_boxes.txt").write_text("1 0 0 5 5\n2 1 1 6 6\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "parts.txt").write_text("1 back\n2 beak\n")
    (folder / "parts" / "part_locs.txt").write_text("1 1 2 3 1\n1 2 2.5 3 1\n2 1 0 0 0\n")


def _read_tables(folder: Path) -> None:
    read_folder(folder / "mine")
    read_classes(folder / "classes.csv", ("fur", "horns"))
    read_parts(folder / "parts")


_RUN_FILES = (
    *("config.json", "dataset.json", "result.json", "metrics.jsonl", "model.safetensors"),
    *("validation/result.json", "final/result.json"),
)
_INFO = ("pictures.json", "features.json", "dataset_info.json", "annotations.npz")
_RECORDS = "mine/1.0.0/mine-trainval.array_record-00000-of-00001"
KINDS = {
    "run": Kind(_make_run, tuple(f"run/{name}" for name in _RUN_FILES), _read_run),
    "sweep": Kind(_make_sweep, ("sweep/result.json", "sweep/sweep.json"), _read_sweep),
    "position": Kind(
        _make_position,
        ("position.json",),
        lambda folder: read_json(folder / "position.json", _POSITION),
    ),
    "prepared": Kind(
        _make_prepared, (*(f"mine/1.0.0/{name}" for name in _INFO), _RECORDS), _read_prepared
    ),
    "store": Kind(
        _make_prepared,
        ("store/manifest.json", "store/annotations.npz", "store/shard-00000-of-00002.npy"),
        _read_store,
    ),
    "hdf5": Kind(_make_hdf5, ("tiny.hdf5",), _read_hdf5),
    "mat": Kind(_make_mat, ("plain.mat", "packed.mat", "v73.mat"), _read_mat),
    "words": Kind(
        _make_words,
        ("words.npy", "words0.pkl", "words2.pkl", "words4.pkl", "classes.npy", *_WORD_FILES),
        _read_words,
    ),
    "weights": Kind(_make_weights, _WEIGHTS, _read_weights),
    "archives": Kind(_make_archives, _ARCHIVES, _read_archives),
    "pictures": Kind(_make_pictures, _PICTURES, _read_pictures),
    "tables": Kind(
        _make_tables,
        (
            *("mine/attributes.csv", "mine/groups.csv", "classes.csv", "images.txt"),
            *("bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"),
        ),
        _read_tables,
    ),
}
