"""Reads a folder with pictures and attributes of the user's own classes.

    <root>/pictures/<class>/*.jpg     .jpg, .jpeg, .png, .webp, .bmp
    <root>/attributes.csv             class,<attribute>,...   one row per class, numbers
    <root>/groups.csv                 attribute,group         optional
    <root>/word_vectors.npy or .pkl   one per attribute       optional

A column `split` of `attributes.csv` may say `seen` or `unseen`. Where it does not, classes with
pictures are seen and those without are unseen: candidates that a prediction may choose.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.data.tables import clean, finite_number, first_twice, read_csv
from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.paths import local_path

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_VECTOR_SUFFIXES = (".npy", ".pkl")
_LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind
_SHOWN = 8  # how many attributes without use a message names
_MIN_SEEN_PICTURES = 2  # one to train on, one to test with
_WORD = re.compile(r"[^\W_]+")


def read_folder(
    root: Path, *, seed: int = 0, test_share: float = 0.2, word_vectors: Path | None = None
) -> PictureSet:
    """Reads a folder of one's own classes.

    Names are compared and kept in Unicode's form NFC. Pictures with an EXIF rotation are stored
    upright.

    Args:
      root: the folder, laid out as above; the set is named after it.
      seed: of the choice of test pictures; each class's choice is independent of other classes.
      test_share: of each seen class's pictures, the share kept for testing: at least one picture,
        never all.
      word_vectors: a file for `read_word_vectors`; None for the one in `root`, or, where there is
        none, vectors hashed from the words of the names.

    Raises:
      InputError: names the file, and the row, column, class or attribute that is wrong.
    """
    root = local_path(root)
    if not 0 < test_share < 1:
        raise InputError(f"test share is {test_share}, expected more than 0 and less than 1")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; pass the one with pictures/ as --root")
    table = _read_attributes(root / "attributes.csv")
    found = _find_pictures(root, table)
    seen = _seen_classes(root, table, found)

    pictures: list[Picture] = []
    labels: list[int] = []
    splits: dict[str, list[int]] = {"trainval": [], "test_seen": [], "test_unseen": []}
    for label, name in enumerate(table.classes):
        numbers = range(len(pictures), len(pictures) + len(found[name]))
        pictures += found[name]
        labels += [label] * len(numbers)
        if not seen[label]:
            splits["test_unseen"] += numbers
            continue
        test = _test_pictures(name, len(numbers), seed, test_share)
        for i, number in enumerate(numbers):
            splits["test_seen" if i in test else "trainval"].append(number)
    vectors, vectors_file = _word_vectors(root, table.attributes, word_vectors)
    unpictured = [label for label, name in enumerate(table.classes) if not found[name]]
    annotations = Annotations(
        source=str(root),
        labels=np.asarray(labels, np.int32),
        class_embeddings=table.values,
        word_vectors=vectors,
        class_names=table.classes,
        attribute_names=table.attributes,
        groups=_read_groups(root / "groups.csv", table.attributes),
        unpictured_classes=np.asarray(unpictured, np.int64) if unpictured else None,
        **{name: np.asarray(split, np.int64) for name, split in splits.items()},
    )
    origins = (
        f"word vectors: {vectors_file or f'hashed from the names; {_none_given(root)}'}",
        f"attribute names: {table.path}",
    )
    return PictureSet(_set_name(root), annotations, pictures, origins)


class _Table(NamedTuple):
    """`attributes.csv`.

    Attributes:
      path: where it was read.
      classes: their names, in the order of the rows.
      attributes: their names, in the order of the columns.
      values: `[classes, attributes]` float32.
      splits: `seen`, `unseen` or "" for each class.
    """

    path: Path
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    values: np.ndarray
    splits: tuple[str, ...]


# --- tables -------------------------------------------------------------------------------------


def _read_attributes(path: Path) -> _Table:
    rows = read_csv(path, "a header class,<attribute>,... and a row for each class")
    header = rows[0][1]
    if header[0].lower() != "class":
        hint = "; separate columns by commas" if header[0].lower().startswith("class;") else ""
        raise InputError(
            f"{path}: line {rows[0][0]} begins with {header[0][:64]!r}, expected a header that "
            f"begins with 'class'{hint}"
        )
    columns = [i for i, name in enumerate(header) if i and name.lower() != "split"]
    split_columns = [i for i, name in enumerate(header) if i and name.lower() == "split"]
    if len(split_columns) > 1:
        raise InputError(f"{path}: the header has two columns 'split'; keep one")
    attributes = tuple(header[i] for i in columns)
    if not attributes:
        raise InputError(f"{path}: the header has no attributes; add a column for each")
    for i, name in zip(columns, attributes, strict=True):
        if not name:
            raise InputError(
                f"{path}: column {i + 1} has no name; name the attribute in the header"
            )
    if twice := first_twice(attributes):
        raise InputError(f"{path}: attribute {twice!r} has two columns; keep or rename one")
    classes, values, splits = [], [], []
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {line} has {len(row)} cells, the header {len(header)}; fill in the "
                "row, and put names that contain commas in double quotes"
            )
        if not row[0]:
            raise InputError(f"{path}: line {line} has no class name; put it in the first cell")
        classes.append(row[0])
        values.append([finite_number(path, line, header[i], row[i]) for i in columns])
        split = row[split_columns[0]].lower() if split_columns else ""
        if split not in ("seen", "unseen", ""):
            raise InputError(
                f"{path}: line {line}: split of {row[0]!r} is {split[:64]!r}, expected 'seen', "
                "'unseen' or nothing"
            )
        splits.append(split)
    if not classes:
        raise InputError(f"{path}: the header is all there is; add a row for each class")
    if twice := first_twice(classes):
        raise InputError(f"{path}: class {twice!r} has two rows; keep one")
    array = np.asarray(values, np.float32)
    constant = np.flatnonzero((array == array[0]).all(axis=0))
    if len(constant) and len(classes) > 1:
        raise InputError(f"{path}: {_constant_text([attributes[a] for a in constant.tolist()])}")
    return _Table(path, tuple(classes), attributes, array, tuple(splits))


def _constant_text(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    if len(names) == 1:
        return (
            f"attribute {shown} has the same value in all classes, so it cannot tell them apart; "
            "remove the column"
        )
    more = ", ..." if len(names) > _SHOWN else ""
    return (
        f"{len(names)} attributes ({shown}{more}) have the same value in all classes, so they "
        "cannot tell them apart; remove the columns"
    )


def _read_groups(path: Path, attributes: tuple[str, ...]) -> AttributeGroups | None:
    if not os.path.lexists(path):
        return None
    rows = read_csv(path, "a header attribute,group and a row for each attribute")
    if [cell.lower() for cell in rows[0][1]] != ["attribute", "group"]:
        raise InputError(f"{path}: line {rows[0][0]}: expected the header 'attribute,group'")
    number = {name: i for i, name in enumerate(attributes)}
    members: dict[str, list[int]] = {}
    given: set[str] = set()
    for line, row in rows[1:]:
        if len(row) != 2 or not all(row):
            raise InputError(f"{path}: line {line}: expected an attribute and its group")
        name, group = row
        if name not in number:
            raise InputError(
                f"{path}: line {line}: unknown attribute {name!r}; it is not in attributes.csv"
            )
        if name in given:
            raise InputError(f"{path}: line {line}: attribute {name!r} is already in a group")
        given.add(name)
        members.setdefault(group, []).append(number[name])
    if missing := [name for name in attributes if name not in given]:
        raise InputError(f"{path}: attribute {missing[0]!r} has no group; add a row for it")
    return AttributeGroups(tuple(members), tuple(tuple(sorted(m)) for m in members.values()))


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
        return read_word_vectors(files[0], len(attributes)), files[0]
    words = [_WORD.findall(name.lower()) or [name] for name in attributes]
    return hashed_word_vectors(words), None


def _none_given(root: Path) -> str:
    return f"no {root / 'word_vectors'}{' or '.join(_VECTOR_SUFFIXES)}"


# --- pictures -----------------------------------------------------------------------------------


def _find_pictures(root: Path, table: _Table) -> dict[str, list[Picture]]:
    """The pictures of each class of the table, sorted by name."""
    top = root / "pictures"
    if not top.is_dir():
        raise InputError(
            f"{top}: no such folder; create it with a folder of pictures for each class"
        )
    found: dict[str, list[Picture]] = {name: [] for name in table.classes}
    folders: dict[str, Path] = {}
    for folder in _entries(top):
        _check_inside(folder, root)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: not a folder; put pictures into a folder for their class, and other "
                "files elsewhere"
            )
        name = clean(folder.name)
        if name in folders:
            raise InputError(f"{folder}: has the same name as {folders[name]}; merge the two")
        if name not in found:
            raise InputError(f"{folder}: class {name!r} has no row in {table.path.name}; add one")
        folders[name] = folder
        found[name] = _pictures_in(folder, f"pictures/{name}", root)
    return found


def _pictures_in(folder: Path, name: str, root: Path) -> list[Picture]:
    pictures: dict[str, Picture] = {}
    for file in _entries(folder):
        _check_inside(file, root)
        if not file.is_file():
            raise InputError(f"{file}: not a regular file; a class's folder may only hold pictures")
        if file.suffix.lower() not in _SUFFIXES:
            raise InputError(
                f"{file}: expected pictures only ({', '.join(_SUFFIXES)}); convert it, or put it "
                "elsewhere"
            )
        own = f"{name}/{unicodedata.normalize('NFC', file.name)}"
        if own in pictures:
            raise InputError(f"{file}: two files have this name; rename one")
        pictures[own] = Picture(own, file, upright=True)
    return [pictures[own] for own in sorted(pictures)]


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted, without hidden files and litter."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return [folder / n for n in names if not n.startswith(".") and n.lower() not in _LITTER]


def _check_inside(path: Path, root: Path) -> None:
    if not path.is_symlink():
        return
    try:
        inside = path.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise InputError(f"{path}: a broken link; remove it") from error
    if not inside:
        raise InputError(f"{path}: a link that leads out of {root}; copy its target there instead")


def _seen_classes(root: Path, table: _Table, found: dict[str, list[Picture]]) -> list[bool]:
    seen = [
        split == "seen" or (not split and len(found[name]) > 0)
        for name, split in zip(table.classes, table.splits, strict=True)
    ]
    for name, is_seen in zip(table.classes, seen, strict=True):
        if is_seen and len(found[name]) < _MIN_SEEN_PICTURES:
            raise InputError(
                f"{root / 'pictures' / name}: a seen class needs at least {_MIN_SEEN_PICTURES} "
                f"pictures, found {len(found[name])}; add some, or set its split to 'unseen' in "
                f"{table.path.name}"
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


def _test_pictures(name: str, count: int, seed: int, share: float) -> set[int]:
    """Which of a class's pictures, by number, are for testing."""
    of_class = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    number = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng([seed, of_class]).permutation(count)
    return set(order[:number].tolist())


def _set_name(root: Path) -> str:
    """The folder's name as a set may be called."""
    plain = unicodedata.normalize("NFKD", root.resolve().name).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:48]
    return name if name[:1].isalpha() else f"set_{name}".rstrip("_")
