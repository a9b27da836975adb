"""Reading prepared sets: by image index, from many processes and threads, and when damaged."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.errors import InputError
from tests.made_up import bmp

SPLITS = {"trainval": [7, 0, 4, 1], "test_seen": [5, 2], "test_unseen": [8, 10, 9]}
STORED = sorted(i for split in SPLITS.values() for i in split)
CONTENTS = [bmp(10 + i, seed=i) for i in range(12)]


def picture_set(name: str = "small") -> PictureSet:
    """Twelve pictures, of which 3, 6 and 11 are in no split."""
    annotations = Annotations(
        source="a test",
        labels=np.repeat(np.arange(3, dtype=np.int32), 4),
        class_embeddings=np.eye(3, 4, dtype=np.float32),
        word_vectors=np.ones((4, 2), np.float32),
        class_names=("ox", "bat", "rat"),
        attribute_names=("a", "b", "c", "d"),
        **{split: np.asarray(images) for split, images in SPLITS.items()},
    )
    pictures = [Picture(f"ü/{i}.jpg", encoded=data) for i, data in enumerate(CONTENTS)]
    return PictureSet(name, annotations, pictures)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(picture_set(), tmp_path_factory.mktemp("built")).folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(built, tmp_path / "small" / "1.0.0"))


def error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_prepared(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_by_image_index(built: Path) -> None:
    prepared = open_prepared(built)
    assert (prepared.name, prepared.path) == ("small", built)
    assert len(prepared.digest) == 64
    assert len(prepared.pictures) == 12
    for i in STORED:
        assert prepared.pictures[np.int64(i)] == (CONTENTS[i], f"ü/{i}.jpg")
    for i in (3, -1, 12):
        with pytest.raises(IndexError):
            prepared.pictures[i]
    assert prepared.annotations.test_unseen.tolist() == SPLITS["test_unseen"]
    assert prepared.annotations.source == str(built)


def test_digest_changes_with_the_pictures(built: Path, tmp_path: Path) -> None:
    changed = picture_set()
    changed.pictures[8] = Picture("ü/8.jpg", encoded=bmp(18, seed=80))
    digest = open_prepared(build(changed, tmp_path).folder).digest
    assert digest != open_prepared(built).digest
    changed.pictures[8], changed.pictures[9] = changed.pictures[9], changed.pictures[8]
    assert open_prepared(build(changed, tmp_path, overwrite=True).folder).digest != digest


def test_highest_version(folder: Path) -> None:
    home = folder.parent
    assert open_prepared(home).path == folder
    for version in ("1.2.0", "1.10.0", "incomplete.99.0", "9.0", "1.x.0"):
        shutil.copytree(folder, home / version)
    (home / "99.0.0").touch()
    assert open_prepared(home).path == home / "1.10.0"
    assert open_prepared(str(home / "1.2.0")).path == home / "1.2.0"


def test_moved_folders(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "birds"
    moved.parent.mkdir()
    folder.rename(moved)
    assert open_prepared(moved).pictures[10] == (CONTENTS[10], "ü/10.jpg")


def test_pickled(built: Path) -> None:
    pictures = open_prepared(built).pictures
    before = pickle.dumps(pictures)
    pictures[0]
    after = pickle.dumps(pictures)
    assert len(before) < 4000
    for data in (before, after):
        copy = pickle.loads(data)
        assert [copy[i][0] for i in STORED] == [CONTENTS[i] for i in STORED]


def test_threads(built: Path) -> None:
    pictures = open_prepared(built).pictures
    indices = np.random.default_rng(0).choice(STORED, 2000).tolist()
    with ThreadPoolExecutor(4) as pool:
        for i, (data, name) in zip(indices, pool.map(pictures.__getitem__, indices), strict=True):
            assert (data, name) == (CONTENTS[i], f"ü/{i}.jpg")


_FORKS = """
import faulthandler, os, pickle, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
faulthandler.dump_traceback_later(30, exit=True)
from dedn_jax.data.prepared.reader import ForkedError, open_prepared
pictures = open_prepared(Path(sys.argv[1])).pictures
stored = [int(i) for i in sys.argv[2].split(",")]
children = []
for _ in range(2):
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(pictures.__getitem__, stored * 20))
        os.write(write_end, b"equal" if found == [pictures[i] for i in stored] * 20 else b"other")
        os._exit(0)
    children.append((child, read_end))
for child, read_end in children:
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read_end, 9) == b"equal"
pictures[stored[0]]
child = os.fork()
if not child:
    for again in (pictures, open_prepared(Path(sys.argv[1])).pictures):
        try:
            again[stored[-1]]
            os._exit(1)
        except ForkedError:
            pass
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("done", "tensorflow" in sys.modules)
"""


def test_forked_processes_with_threads(built: Path) -> None:
    """In a process of its own: this one has JAX's threads, which do not like to be forked."""
    command = [sys.executable, "-c", _FORKS, str(built), ",".join(map(str, STORED))]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done False\n"


_BUILD_AND_READ = """
import sys
from importlib import util
spec = util.spec_from_file_location("t", sys.argv[1])
t = util.module_from_spec(spec)
spec.loader.exec_module(t)
prepared = t.open_prepared(t.build(t.picture_set(), t.Path(sys.argv[2])).folder)
assert [prepared.pictures[i][0] for i in t.STORED] == [t.CONTENTS[i] for i in t.STORED]
assert t.build(t.picture_set(), t.Path(sys.argv[2])) == (prepared.path, False)
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_never_imported(tmp_path: Path) -> None:
    """Not even where it is installed, which an empty package stands in for."""
    decoy = tmp_path / "decoy" / "tensorflow"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    command = [sys.executable, "-c", _BUILD_AND_READ, __file__, str(tmp_path / "out")]
    run = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(decoy.parent)},
    )
    assert run.returncode == 0, run.stderr


# --- damage -------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    assert "no such folder" in error(tmp_path / "none")
    assert "not a prepared set" in error(tmp_path)
    (tmp_path / "file").touch()
    assert "is a file" in error(tmp_path / "file")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pictures.json", "pictures.json: no such file"),
        ("annotations.npz", "annotations.npz: no such file"),
        ("dataset_info.json", "dataset_info.json: No such file"),
        ("features.json", "features.json: No such file"),
        ("small-trainval.array_record-00000-of-00001", "00000-of-00001: no such file"),
    ],
)
def test_missing_files(folder: Path, file: str, expected: str) -> None:
    (folder / file).unlink()
    assert expected in error(folder)


@pytest.mark.parametrize(
    "file", ["pictures.json", "annotations.npz", "dataset_info.json", "features.json"]
)
def test_damaged_files(folder: Path, file: str) -> None:
    data = (folder / file).read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"[]"):
        (folder / file).write_bytes(damaged)
        assert error(folder).startswith(str(folder))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "format is 2, expected 1"),
        ({"digest": 5}, "name or digest is missing"),
        ({"name": None}, "name or digest is missing"),
        ({"name": "../elsewhere"}, "is not a valid name"),
    ],
)
def test_other_notes(folder: Path, changes: dict, expected: str) -> None:
    path = folder / "pictures.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert expected in error(folder)


def changed(file: Path, place: str, value: object) -> None:
    """Sets what a dotted name says, in a JSON file."""
    whole = inner = json.loads(file.read_text())
    *above, last = (int(n) if n.isdigit() else n for n in place.split("."))
    for name in above:
        inner = inner[name]
    inner[last] = value
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "place",
    [
        "pythonClassName",
        "featuresDict.features.label.pythonClassName",
        "featuresDict.features.more",
    ],
)
def test_features_name_no_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """tfds imports the modules that it finds named there, also from the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("open('owned', 'w')")
    named: object = "evil.Features"
    changed(
        folder / "features.json", place, {"pythonClassName": named} if "more" in place else named
    )
    assert "features.json: " in error(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("splits", None, "splits is None, expected a list"),
        ("splits.0.shardLengths", ["-4"], "splits[0].shardLengths[0] is '-4', expected a whole"),
        ("splits.0.shardLengths", ["4" * 10**5], "expected a whole number from 1"),
        ("splits.0.name", "test_seen", "two splits 'test_seen'"),
        ("splits.0.name", "../../x", "split trainval has 0 pictures, annotations.npz has 4"),
    ],
)
def test_shards_that_no_build_wrote(folder: Path, place: str, value: object, expected: str) -> None:
    changed(folder / "dataset_info.json", place, value)
    assert expected in error(folder)


def test_file_names_are_not_taken_from_the_set(folder: Path) -> None:
    changed(folder / "dataset_info.json", "splits.0.filepathTemplate", "/etc/passwd")
    assert open_prepared(folder).pictures[4][0] == CONTENTS[4]


def test_annotations_of_another_set(folder: Path, tmp_path: Path) -> None:
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"4"', '"3"'))
    assert "split trainval has 3 pictures, annotations.npz has 4" in error(folder)


def read_error(folder: Path, image: int) -> str:
    with pytest.raises(InputError) as caught:
        open_prepared(folder).pictures[image]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_records(folder: Path) -> None:
    path = folder / "small-trainval.array_record-00000-of-00001"
    whole = path.read_bytes()
    where = whole.index(CONTENTS[4][100:140])
    for damaged in (
        whole[:where] + b"X" + whole[where + 1 :],
        whole[: len(whole) // 2],
        b"",
        b"X" * len(whole),
    ):
        path.write_bytes(damaged)
        message = read_error(folder, 4)
        assert message.startswith(str(path))
        assert "build the set again" in message
    path.write_bytes(whole)
    assert open_prepared(folder).pictures[4][0] == CONTENTS[4]


def test_record_files_of_another_set(folder: Path, tmp_path: Path) -> None:
    other = picture_set()
    turned = {"trainval": np.asarray(SPLITS["trainval"][::-1])}
    annotations = Annotations(**{**vars(other.annotations), **turned})
    there = build(PictureSet("small", annotations, other.pictures), tmp_path / "other").folder
    name = "small-trainval.array_record-00000-of-00001"
    shutil.copy(there / name, folder / name)
    assert "holds image 1 in place of image 7" in read_error(folder, 7)
    shutil.copy(there / "small-test_seen.array_record-00000-of-00001", folder / name)
    assert "2 records, expected 4" in read_error(folder, 7)
