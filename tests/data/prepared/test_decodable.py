"""Pictures that cannot be decoded end a build, or are left out; the same picture twice is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.decodable import (
    inspect_set,
    shared_pictures,
    without_unreadable,
)
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.errors import InputError
from dedn_jax.progress import note
from tests.data.prepared.test_build import contents, png, small_set
from tests.made_up import picture_folder


def with_pictures(picture_set: PictureSet, **changed: bytes) -> PictureSet:
    """`p3=data` changes picture 3."""
    pictures = list(picture_set.pictures)
    for name, data in changed.items():
        number = int(name[1:])
        pictures[number] = Picture(f"{number}.jpg", encoded=data)
    return dataclasses.replace(picture_set, pictures=pictures)


def test_a_picture_that_cannot_be_decoded(tmp_path: Path) -> None:
    bad = with_pictures(small_set(), p4=png(4)[:60])
    with pytest.raises(InputError, match=r"^4\.jpg: .*; or leave it out with --skip-unreadable$"):
        build(bad, tmp_path)
    bad = with_pictures(bad, p9=b"no", p11=b"in no split")
    with pytest.raises(InputError, match=r"2 of 10 pictures cannot be decoded; the first is 4"):
        build(bad, tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_what_is_left_is_what_would_be_built_without_them(tmp_path: Path) -> None:
    bad = with_pictures(small_set(), p4=b"no", p9=b"")
    left, facts = without_unreadable(bad, inspect_set(bad))
    data = left.annotations
    assert [p.name for p in left.pictures] == [f"{i}.jpg" for i in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11)]
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.trainval.tolist() == [5, 0, 1]
    assert data.test_seen.tolist() == [4, 3, 2]
    assert data.test_unseen.tolist() == [7, 8]
    assert data.unpictured_classes is None
    folder, _ = build(left, tmp_path, facts=facts)
    assert contents(folder) == contents(build(left, tmp_path / "again").folder)
    assert open_prepared(folder).pictures[7][0] == png(8)


def test_classes_without_any_picture_left() -> None:
    bad = with_pictures(small_set(), p8=b"", p9=b"", p10=b"")
    left, _ = without_unreadable(bad, inspect_set(bad))
    assert left.annotations.unpictured_classes is not None
    assert left.annotations.unpictured_classes.tolist() == [2]
    assert left.annotations.unseen_classes.tolist() == [2]
    bad = with_pictures(small_set(), p4=b"", p6=b"")
    with pytest.raises(InputError, match="none of the training pictures of ' bat ' can be decoded"):
        without_unreadable(bad, inspect_set(bad))


def test_the_same_picture_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = with_pictures(small_set(), p4=png(0), p5=png(0), p7=png(1))  # picture 7: in no split
    facts = inspect_set(twice)
    assert shared_pictures(twice.annotations, facts) == [
        "a test: the same picture has several classes: 2 times, first 0.jpg and 4.jpg",
        "a test: the same picture is trained on and tested with: 0.jpg and 5.jpg",
    ]
    note.cache_clear()
    build(twice, tmp_path)
    assert "the same picture has several classes" in capsys.readouterr().err
    assert shared_pictures(small_set().annotations, inspect_set(small_set())) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = picture_folder(tmp_path)
    first = sorted((root / "pictures").iterdir())[0]
    (first / "0.jpg").write_bytes(b"no picture")
    (first / "copy.jpg").write_bytes((first / "1.jpg").read_bytes())
    command = ["data", "build", "folder", f"--root={root}", f"--out={tmp_path}/out"]
    assert main(command) == 2
    assert "or leave it out with --skip-unreadable" in capsys.readouterr().err
    for _ in range(2):  # and again, when it is built
        assert main([*command, "--skip-unreadable"]) == 0
        printed = capsys.readouterr().out
        assert f"left out: {first}/0.jpg: not a picture" in printed
    prepared = open_prepared(next((tmp_path / "out").iterdir()))
    assert len(prepared.annotations.labels) == len(list((root / "pictures").rglob("*.jpg"))) - 1
    assert np.unique(prepared.annotations.labels).tolist() == list(range(8))
    assert main([*command[:1], "check", *command[2:4]]) == 2  # the damaged one
    assert "duplicates                 1" in capsys.readouterr().out
