"""Reads a folder with pictures and attributes of the user's own classes.

    <root>/pictures/<class>/*.jpg     or in subfolders; JPEG, PNG, WebP, BMP, GIF, TIFF; or links
    <root>/attributes.csv             class,<attribute>,...   one row per class, numbers
    <root>/groups.csv                 attribute,group         optional
    <root>/test.txt                   <class>/<file>          optional: test pictures, one a line
    <root>/word_vectors.npy           one per attribute       optional; .npz or .pkl as well

A column `split` of `attributes.csv` may say `seen` or `unseen`. Where it does not, classes with
pictures are seen and those without are unseen: candidates that a prediction may choose.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import Picture, PictureSet, as_set_name
from dedn_jax.data.sources.folder_pictures import (
    ClassPictures,
    drawn_for_testing,
    find_class_pictures,
    read_test_list,
)
from dedn_jax.data.sources.folder_tables import Table, read_attributes, read_groups
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

_VECTOR_SUFFIXES = (".npy", ".npz", ".pkl")
_TEST_LIST = "test.txt"
_TEST_SHARE = 0.2
_SHOWN = 8  # how many names a line shows
_WORD = re.compile(r"[^\W_]+")


def read_folder(
    root: Path,
    *,
    seed: int | None = None,
    test_share: float | None = None,
    test_list: Path | None = None,
    word_vectors: Path | None = None,
) -> PictureSet:
    """Reads a folder of one's own classes.

    Names are compared and kept in Unicode's form NFC. Pictures with an EXIF rotation are stored
    upright. A seen class with one picture is trained on and not tested.

    Args:
      root: the folder, laid out as above; the set is named after it.
      seed: of the choice of test pictures, which is independent for each class; None: 0.
      test_share: of each seen class's pictures, the share kept for testing: at least one picture,
        never all; None: 0.2.
      test_list: names the pictures of seen classes to test with, in place of a choice; None for the
        one in `root`, if any.
      word_vectors: a file for `read_word_vectors`; None for the one in `root`, or, where there is
        none, vectors hashed from the words of the names.

    Raises:
      InputError: names the file, and the row, column, class or attribute that is wrong.
    """
    root = local_path(root)
    if test_share is not None and not 0 < test_share < 1:
        raise InputError(f"test share is {test_share}, expected more than 0 and less than 1")
    if seed is not None and seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; pass the one with pictures/ as --root")
    table = read_attributes(root / "attributes.csv")
    found = find_class_pictures(root, table)
    seen = _seen_classes(root, table, found.of)
    test = _test_pictures(root, found, seed, test_share, test_list)

    pictures = [picture for name in table.classes for picture in found.of[name]]
    counts = [len(found.of[name]) for name in table.classes]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    in_test = np.array([picture.name in test.names for picture in pictures], bool)
    of_seen = np.asarray(seen)[labels]
    _check_trained(test, table.classes, seen, labels[of_seen & ~in_test])
    vectors, vectors_file = _word_vectors(root, table.attributes, word_vectors)
    unpictured = np.flatnonzero(np.asarray(counts) == 0)
    annotations = Annotations(
        source=str(root),
        labels=labels,
        class_embeddings=table.values,
        word_vectors=vectors,
        trainval=np.flatnonzero(of_seen & ~in_test),
        test_seen=np.flatnonzero(of_seen & in_test),
        test_unseen=np.flatnonzero(~of_seen),
        class_names=table.classes,
        attribute_names=table.attributes,
        groups=read_groups(root / "groups.csv", table.attributes),
        unpictured_classes=unpictured if len(unpictured) else None,
    )
    origins = (
        f"word vectors: {vectors_file or f'hashed from the names; {_none_given(root)}'}",
        f"attribute names: {table.path}",
        f"test pictures: {test.origin}",
        *_remarks(annotations, table, found),
    )
    return PictureSet(as_set_name(root.resolve().name), annotations, pictures, origins)


class _Test(NamedTuple):
    """Names of pictures for testing, and a line that says where they are from."""

    names: set[str]
    origin: str


def _test_pictures(
    root: Path,
    found: ClassPictures,
    seed: int | None,
    share: float | None,
    given: Path | None,
) -> _Test:
    path = given if given is not None else root / _TEST_LIST
    if given is not None or os.path.lexists(path):
        path = local_path(path)
        for flag, value in (("--seed", seed), ("--test-share", share)):
            if value is not None:
                raise InputError(f"{flag}={value}: {path} names the test pictures; leave it out")
        return _Test(read_test_list(path, found), str(path))
    seed, share = seed or 0, share or _TEST_SHARE
    names = {
        pictures[i].name
        for name, pictures in found.of.items()
        for i in drawn_for_testing(name, len(pictures), seed, share)
    }
    return _Test(names, f"drawn, {share:g} of every seen class, seed {seed}")


def _check_trained(
    test: _Test, classes: Sequence[str], seen: Sequence[bool], trained: np.ndarray
) -> None:
    """Raises InputError where a list leaves a seen class without pictures to train on."""
    for k in np.setdiff1d(np.flatnonzero(seen), trained).tolist():
        raise InputError(
            f"{test.origin}: names all pictures of {classes[k]!r}; leave some to train on"
        )


def _remarks(annotations: Annotations, table: Table, found: ClassPictures) -> list[str]:
    """What a reader of the folder should know: lines, none where all is in order."""
    lines = []
    untested = np.setdiff1d(annotations.seen_classes, annotations.labels[annotations.test_seen])
    if len(untested):
        names = _listed([annotations.class_names[k] for k in untested.tolist()])
        lines.append(f"trained on, not tested, for lack of test pictures: {names}")
    if table.constant:
        names = _listed(table.constant)
        lines.append(f"the same value in all classes, so that they tell none apart: {names}")
    if table.alike:
        names = _listed([f"{later} like {first}" for later, first in table.alike])
        lines.append(
            f"another class's attributes but for scale, so that nothing tells them apart: {names}"
        )
    if found.others:
        lines.append(f"left out, no pictures: {_listed([str(path) for path in found.others])}")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _word_vectors(
    root: Path, attributes: tuple[str, ...], given: Path | None
) -> tuple[np.ndarray, Path | None]:
    """The vectors, and the file they are from, if any."""
    files = [p for s in _VECTOR_SUFFIXES if os.path.lexists(p := root / f"word_vectors{s}")]
    if given is not None:
        files = [local_path(given)]
        if not files[0].is_file():
            raise InputError(f"{files[0]}: no such file; pass an existing one as --word-vectors")
    if len(files) > 1:
        raise InputError(f"{files[1]}: {files[0].name} exists as well; keep one of the two")
    if files:
        return read_word_vectors(files[0], len(attributes), attributes), files[0]
    words = [_WORD.findall(name.lower()) or [name] for name in attributes]
    return hashed_word_vectors(words), None


def _none_given(root: Path) -> str:
    return f"no {root / 'word_vectors'}{' or '.join(_VECTOR_SUFFIXES)}"


def _seen_classes(root: Path, table: Table, found: dict[str, list[Picture]]) -> list[bool]:
    seen = [
        split == "seen" or (not split and len(found[name]) > 0)
        for name, split in zip(table.classes, table.splits, strict=True)
    ]
    for name, is_seen in zip(table.classes, seen, strict=True):
        if is_seen and not found[name]:
            raise InputError(
                f"{root / 'pictures' / name}: a seen class without pictures; add some, or set its "
                f"split to 'unseen' in {table.path.name}"
            )
    if sum(seen) < 2:
        raise InputError(
            f"{table.path}: {sum(seen)} seen classes, expected at least 2; add pictures"
        )
    if all(seen):
        raise InputError(
            f"{table.path}: no unseen class; add a class without pictures, or a column 'split' "
            "that says 'unseen' for some"
        )
    return seen
