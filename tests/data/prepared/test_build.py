"""Writing prepared sets: whole or not at all, the same bytes for the same set."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared import build as tfds_builder
from dedn_jax.data.prepared.build import build, shard_lengths
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources.benchmark import read_benchmark
from dedn_jax.errors import InputError

SPLITS_OF = {"trainval": [6, 0, 1, 4], "test_seen": [5, 3, 2], "test_unseen": [8, 10, 9]}


def png(number: int) -> bytes:
    """A picture like no other number's, in colour and size."""
    out = io.BytesIO()
    Image.new("RGB", (40 + number, 40), (number, 20 * number, 9)).save(out, "PNG")
    return out.getvalue()


def small_set(folder: Path | None = None, name: str = "small", **changes: object) -> PictureSet:
    """Three classes of four pictures, of which the last is in no split; in files or in memory."""
    annotations = Annotations(
        source="a test",
        labels=np.repeat(np.arange(3, dtype=np.int32), 4),
        class_embeddings=np.eye(3, 4, dtype=np.float32),
        word_vectors=np.ones((4, 2), np.float32),
        **{name: np.asarray(split) for name, split in SPLITS_OF.items()},
        class_names=("ox", " bat ", "rat"),
        attribute_names=("a", "b", "c", "d"),
    )
    contents = [png(i) for i in range(12)]
    if folder is None:
        pictures = [Picture(f"{i}.jpg", encoded=data) for i, data in enumerate(contents)]
    else:
        folder.mkdir(exist_ok=True)
        pictures = []
        for i, data in enumerate(contents):
            (folder / f"{i}.jpg").write_bytes(data)
            pictures.append(Picture(f"{i}.jpg", folder / f"{i}.jpg"))
    return PictureSet(name, dataclasses.replace(annotations, **changes), pictures)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def error(picture_set: PictureSet, out: Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        build(picture_set, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_real_pictures_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    cub = read_benchmark("CUB", shared_data / "cub40")
    folder = build(cub, tmp_path).folder
    assert folder == tmp_path / "cub" / "1.0.0"
    prepared = open_prepared(folder)
    assert prepared.name == "cub"
    assert prepared.annotations.annotations_fingerprint() == (
        cub.annotations.annotations_fingerprint()
    )
    assert len(prepared.pictures) == 960
    for i, picture in enumerate(cub.pictures):
        assert prepared.pictures[i] == (picture.path.read_bytes(), picture.name)
    # As any reader of TensorFlow Datasets sees it: the splits in their own order.
    builder = tfds.builder_from_directory(folder)
    assert "Birds" in builder.info.description
    for split, length in (("trainval", 600), ("test_seen", 120), ("test_unseen", 240)):
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        assert len(source) == length
        images = getattr(cub.annotations, split)
        for row in range(0, length, 37):
            record = source[row]
            assert record["index"] == images[row]
            assert record["label"] == cub.annotations.labels[images[row]]
            assert record["image"] == cub.pictures[images[row]].read()
    assert source[0].keys() == {"image", "label", "index", "file_name"}
    names = tuple(builder.info.features["label"].names)
    assert names == cub.annotations.class_names


def test_same_set_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Another process has other hash seeds and addresses, which orders of dicts may depend on."""
    first = build(small_set(), tmp_path / "a").folder
    script = (
        "import sys; from importlib import util\n"
        "spec = util.spec_from_file_location('t', sys.argv[1]); t = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(t)\n"
        "from pathlib import Path; t.build(t.small_set(), Path(sys.argv[2]))\n"
    )
    for run in "bc":
        command = [sys.executable, "-c", script, __file__, str(tmp_path / run)]
        subprocess.run(command, check=True)
        assert contents(tmp_path / run / "small" / "1.0.0") == contents(first)
    assert (first / "label.labels.txt").read_text() == "ox\nbat\nrat\n"
    assert not any("/" in line for line in (first / "pictures.json").read_text().splitlines())
    assert str(tmp_path).encode() not in b"".join(contents(first).values())


def test_folders(tmp_path: Path) -> None:
    folder = build(small_set(), tmp_path / "new" / "folder").folder
    assert sorted(contents(folder)) == [
        "annotations.npz",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "pictures.json",
        "small-test_seen.array_record-00000-of-00001",
        "small-test_unseen.array_record-00000-of-00001",
        "small-trainval.array_record-00000-of-00001",
    ]
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", "1.0.0"]
    assert [p.name for p in folder.parent.parent.iterdir()] == ["small"]
    assert os.access(folder, os.W_OK)


def test_no_unseen_pictures(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.int64)
    alone = small_set(
        labels=np.repeat([0, 1], 6).astype(np.int32),
        trainval=np.asarray([0, 6]),
        test_seen=np.asarray([1, 7]),
        test_unseen=nothing,
        unpictured_classes=np.asarray([2]),
    )
    prepared = open_prepared(build(alone, tmp_path).folder)
    assert prepared.annotations.unseen_classes.tolist() == [2]
    assert "test_unseen" not in tfds.builder_from_directory(prepared.path).info.splits
    assert prepared.pictures[7] == (alone.pictures[7].read(), "7.jpg")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("ox", "ox", ""), ["ox", "ox (1)", "class 2"]),
        (("ox (1)", "ox", "ox"), ["ox (1)", "ox", "ox (2)"]),
        (("a  b", "a b", "class 1"), ["a b", "a b (1)", "class 1"]),
    ],
)
def test_class_names_as_tfds_keeps_them(
    tmp_path: Path, names: tuple[str, ...], labels: list[str]
) -> None:
    folder = build(small_set(class_names=names), tmp_path).folder
    assert tfds.builder_from_directory(folder).info.features["label"].names == labels
    assert open_prepared(folder).annotations.class_names == names


# --- what is there already ----------------------------------------------------------------------


def test_built_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = small_set(tmp_path / "pictures")
    folder = build(pictures, tmp_path).folder
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    os.utime(tmp_path / "pictures" / "6.jpg")  # newer, but the same
    assert build(pictures, tmp_path) == (folder, False)
    for i in range(12):
        os.utime(tmp_path / "pictures" / f"{i}.jpg", (0, 0))
    monkeypatch.setattr(tfds_builder, "inspect_set", None)  # compared, not decoded
    assert build(pictures, tmp_path) == (folder, False)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_other_data_are_not_replaced_unasked(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    pictures = small_set(source)
    folder = build(pictures, tmp_path).folder
    before = contents(folder)
    named = small_set(class_names=("ox", "bat", "cat"))
    for other in (small_set(test_seen=np.asarray([5, 2, 3])), named):
        message = error(other, tmp_path)
        assert "holds another build of small: splits, classes or attributes differ" in message
        assert "--overwrite" in message
    data = (source / "6.jpg").read_bytes()
    (source / "6.jpg").write_bytes(data[::-1])  # of the same size
    for time_stamp in (None, (0, 0)):  # also with a time before the build
        os.utime(source / "6.jpg", time_stamp)
        assert "pictures differ" in error(pictures, tmp_path)
    (source / "6.jpg").write_bytes(data + b"more")
    assert "pictures differ" in error(pictures, tmp_path)
    assert contents(folder) == before
    assert build(pictures, tmp_path, overwrite=True) == (folder, True)
    assert open_prepared(folder).pictures[6][0] == data + b"more"
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", "1.0.0"]


def test_damaged_builds(tmp_path: Path) -> None:
    folder = build(small_set(), tmp_path).folder
    (folder / "small-test_seen.array_record-00000-of-00001").unlink()
    assert "--overwrite" in error(small_set(), tmp_path)
    build(small_set(), tmp_path, overwrite=True)
    assert build(small_set(), tmp_path) == (folder, False)


def test_what_is_no_build_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "small" / "1.0.0"
    target.mkdir(parents=True)
    (target / "thesis.tex").touch()
    assert "move it away" in error(small_set(), tmp_path, overwrite=True)
    assert "1.0.0" in error(small_set(), tmp_path)
    assert (target / "thesis.tex").exists()


# --- failures -----------------------------------------------------------------------------------


def test_a_killed_build_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    script = (
        "import os, sys; from importlib import util\n"
        "spec = util.spec_from_file_location('t', sys.argv[1]); t = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(t)\n"
        "from pathlib import Path; s = t.small_set()\n"
        "class Deadly(t.Picture):\n"
        "    def read(self):\n"  # first to be decoded, then to be written
        "        if reads.append(1) or len(reads) > 1: os.kill(os.getpid(), 9)\n"
        "        return t.png(8)\n"
        "reads = []; s.pictures[8] = Deadly('x', encoded=b'x')\n"
        "t.build(s, Path(sys.argv[2]))\n"
    )
    run = subprocess.run([sys.executable, "-c", script, __file__, str(tmp_path)])
    assert run.returncode == -9
    left = sorted(p.name.split(".")[0] for p in (tmp_path / "small").iterdir())
    assert left == ["", "incomplete"]
    with pytest.raises(InputError, match="no version"):
        open_prepared(tmp_path / "small")
    folder = build(small_set(), tmp_path).folder
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", "1.0.0"]
    assert contents(folder) == contents(build(small_set(), tmp_path / "other").folder)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_picture_that_cannot_be_read(tmp_path: Path, overwrite: bool) -> None:
    pictures = small_set(tmp_path / "pictures")
    folder = tmp_path / "small" / "1.0.0"
    before = contents(build(pictures, tmp_path).folder) if overwrite else None
    (tmp_path / "pictures" / "9.jpg").write_bytes(b"")
    message = error(pictures, tmp_path, overwrite=overwrite)
    assert message.startswith(f"{tmp_path / 'pictures' / '9.jpg'}: is empty")
    assert (contents(folder) if overwrite else None) == before
    left = sorted(p.name for p in tmp_path.rglob("*") if tmp_path / "pictures" not in p.parents)
    assert [n for n in left if n in ("small", ".lock")] == ([".lock", "small"] if overwrite else [])
    assert not [n for n in left if n.startswith("incomplete")]


def test_two_builds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    read = Picture.read

    def slow(self: Picture) -> bytes:
        inside.set()
        assert go_on.wait(20)
        return read(self)

    monkeypatch.setattr(Picture, "read", slow)
    first = threading.Thread(target=build, args=(small_set(), tmp_path))
    first.start()
    assert inside.wait(20)
    assert "another process is building" in error(small_set(), tmp_path)
    found = []
    second = threading.Thread(target=lambda: found.append(build(small_set(), tmp_path, wait=True)))
    second.start()
    time.sleep(0.1)
    assert not found
    go_on.set()
    for thread in (first, second):
        thread.join(20)
    assert found == [(tmp_path / "small" / "1.0.0", False)]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing fails in array_record's own code, which knows nothing of OSError."""
    script = (
        "import sys; from importlib import util; from tests.helpers.disks import no_file_over\n"
        "spec = util.spec_from_file_location('t', sys.argv[1]); t = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(t)\n"
        "from pathlib import Path\n"
        "s = t.small_set(); out = t.io.BytesIO(); noise = t.np.random.default_rng(0)\n"
        "pixels = noise.integers(0, 256, (600, 600, 3), t.np.uint8)\n"
        "t.Image.fromarray(pixels).save(out, 'BMP')\n"
        "s.pictures[6] = t.Picture('x', encoded=out.getvalue())\n"
        "with no_file_over(5 * 10**5):\n"
        "    print(t.error(s, Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", script, __file__, str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{tmp_path / 'small'}: cannot be written" in run.stdout
    assert "File too large" in run.stdout
    assert not (tmp_path / "small").exists()
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "are needed" in error(small_set(), tmp_path)


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in error(small_set(), tmp_path / "file")
    assert "cannot be written" in error(small_set(), Path("/proc/nowhere"))
    if os.getuid() == 0:
        return  # whom permissions do not stop
    (tmp_path / "read-only").mkdir(mode=0o555)
    assert "cannot be written" in error(small_set(), tmp_path / "read-only")


# --- large splits -------------------------------------------------------------------------------


def test_splits_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_builder, "_SHARD_BYTES", 100)
    pictures = small_set()
    prepared = open_prepared(build(pictures, tmp_path).folder)
    splits = tfds.builder_from_directory(prepared.path).info.splits
    lengths = {name: list(split.shard_lengths) for name, split in splits.items()}
    sizes = {n: [pictures.pictures[i].size() for i in SPLITS_OF[n]] for n in SPLITS_OF}
    assert lengths == {name: shard_lengths(sizes[name]) for name in sizes}
    assert lengths["test_unseen"] == [1, 1, 1]
    assert len(list(prepared.path.glob("*array_record*"))) == sum(map(len, lengths.values()))
    for split in SPLITS_OF.values():
        for i in split:
            assert prepared.pictures[i] == (pictures.pictures[i].read(), f"{i}.jpg")


def test_shard_lengths() -> None:
    assert shard_lengths([5]) == [1]
    assert shard_lengths([2**30, 1, 2**29 - 1, 1, 2**30]) == [1, 2, 1, 1]
    sizes = np.random.default_rng(0).integers(1, 10**7, 20_000)
    lengths = shard_lengths(sizes.tolist())
    assert sum(lengths) == len(sizes)
    bytes_of = np.add.reduceat(sizes, np.cumsum([0, *lengths[:-1]]))
    assert bytes_of.max() <= 2**29
    assert bytes_of[:-1].min() > 2**29 - 10**7


def test_names_of_sets() -> None:
    for name in ("CUB", "", "1st", "a-b", "../x", "a" * 70):
        with pytest.raises(InputError, match="not a name for a data set"):
            small_set(name=name)
    with pytest.raises(InputError, match="12 pictures for 11 labels"):
        small_set(labels=np.repeat(np.arange(3, dtype=np.int32), 4)[:11])


def test_progress_where_nobody_watches(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(small_set(), tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert re.fullmatch(r"\S+ \S+ writing small (\d+)/\1 pictures, .* pictures/s, in 0:\d\d", line)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_that_is_killed_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, exchange: bool
) -> None:
    """Killed when the new set takes the old one's place: nothing is lost, nothing left behind."""
    old, new = small_set(), small_set(test_seen=np.asarray([5, 2, 3]))
    folder = build(old, tmp_path).folder
    before = contents(folder)
    script = (
        "import os, sys; from importlib import util; from pathlib import Path\n"
        "spec = util.spec_from_file_location('t', sys.argv[1]); t = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(t); from dedn_jax import folders\n"
        "def kill(*_, **__): os.kill(os.getpid(), 9)\n"
        "if sys.argv[3] == 'False': folders._exchange = lambda *_: False\n"
        "rename = Path.rename\n"
        "def dying(self, to): (kill if to.name == '1.0.0' else rename)(self, to)\n"
        "t.Path.rename, folders.shutil.rmtree = dying, kill\n"
        "new = t.small_set(test_seen=t.np.asarray([5, 2, 3]))\n"
        "t.build(new, Path(sys.argv[2]), overwrite=True)\n"
    )
    arguments = [__file__, str(tmp_path), str(exchange)]
    assert subprocess.run([sys.executable, "-c", script, *arguments]).returncode == -9
    if exchange:
        assert build(new, tmp_path) == (folder, False)
    else:
        assert not folder.exists()
        assert build(old, tmp_path) == (folder, False)
        assert contents(folder) == before
        assert build(new, tmp_path, overwrite=True) == (folder, True)
    build(new, tmp_path, overwrite=True)
    assert sorted(p.name for p in folder.parent.iterdir()) == [".lock", "1.0.0"]
