"""The pictures in a folder of one's own classes, and which of them are for testing."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.pictures.finding import Found, entries, find_in_folder, is_picture
from dedn_jax.data.prepared.picture_set import Picture
from dedn_jax.data.sources.folder_tables import Table
from dedn_jax.data.tables import clean
from dedn_jax.errors import InputError
from dedn_jax.files import read_text_lines

_MAX_LIST_BYTES = 64 * 2**20


class ClassPictures(NamedTuple):
    """The pictures of each class of a table.

    Attributes:
      of: by class name, sorted by their own names, `pictures/<class>/<file>`.
      others: files that are no pictures and were left out.
    """

    of: dict[str, list[Picture]]
    others: list[Path]


def find_class_pictures(root: Path, table: Table) -> ClassPictures:
    """Looks through `pictures/<class>/`, subfolders included; links are followed.

    Raises:
      InputError: no such folder; a picture beside the classes' folders; a folder without a row in
        the table; a broken link; two names for one file or folder, in different classes.
    """
    top = root / "pictures"
    if not top.is_dir():
        raise InputError(
            f"{top}: no such folder; create it with a folder of pictures for each class"
        )
    found: dict[str, list[Picture]] = {name: [] for name in table.classes}
    others: list[Path] = []
    folders: dict[str, Path] = {}
    owners: dict[Path, Path] = {}
    for entry in entries(top):
        folder = top / entry
        if not folder.is_dir():
            _check_link(folder)
            if is_picture(folder):
                raise InputError(
                    f"{folder}: a picture without a class; put it into the folder of its class"
                )
            others.append(folder)
            continue
        name = clean(folder.name)
        if name in folders:
            raise InputError(f"{folder}: has the same name as {folders[name]}; merge the two")
        if name not in found:
            raise InputError(
                f"{folder}: class {name!r} has no row in {table.path.name}; add one, or give the "
                "folder the name of its row"
            )
        folders[name] = folder
        inside = find_in_folder(folder)
        for file in inside.others:
            _check_link(file)
        others += inside.others
        found[name] = _named(inside.pictures, folder, f"pictures/{name}")
        _check_owners(inside, owners)
    return ClassPictures(found, others)


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path}: a broken link: there is nothing at {path.readlink()}; restore what it points "
            "to, or remove it"
        )


def _named(files: list[Path], folder: Path, name: str) -> list[Picture]:
    pictures: dict[str, Picture] = {}
    for file in files:
        _check_link(file)
        below = unicodedata.normalize("NFC", file.relative_to(folder).as_posix())
        own = f"{name}/{below}"
        if own in pictures:
            raise InputError(f"{file}: two files have this name; rename one")
        pictures[own] = Picture(own, file, upright=True)
    return [pictures[own] for own in sorted(pictures)]


def _check_owners(found: Found, owners: dict[Path, Path]) -> None:
    """Raises InputError where a file is a picture of another class already, by a link."""
    for file, real in zip(found.pictures, found.real, strict=True):
        other = owners.setdefault(real, file)
        if other != file:
            raise InputError(
                f"{file}: is the same file as {other}, of another class; remove one of the two"
            )


# --- pictures for testing -----------------------------------------------------------------------


def drawn_for_testing(name: str, count: int, seed: int, share: float) -> set[int]:
    """Which of a class's pictures, by number, are for testing: at least one, never all."""
    of_class = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    number = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng([seed, of_class]).permutation(count)
    return set(order[:number].tolist())


def read_test_list(path: Path, pictures: ClassPictures) -> set[str]:
    """The names of pictures for testing, from a list of `<class>/<file>`, one a line.

    Args:
      path: of the list; names may begin with `pictures/`, and `\\` may be between folders.
      pictures: of all classes.

    Raises:
      InputError: no text, no names, or a name that is no picture of any class.
    """
    lines = read_text_lines(path, _MAX_LIST_BYTES, "expected one picture, class/file, a line")
    known = {clean(picture.name): picture.name for own in pictures.of.values() for picture in own}
    names, strange = set(), []
    for number, line in enumerate(lines, 1):
        if not (text := clean(line.replace("\\", "/"))):
            continue
        name = known.get(f"pictures/{text.removeprefix('./').removeprefix('pictures/')}")
        if name is None:
            strange.append(f"line {number}: {text[:80]!r}")
        else:
            names.add(name)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise InputError(
            f"{path}: {strange[0]}{more}: not a picture of a class; write class/file, as below "
            "pictures/"
        )
    if not names:
        raise InputError(f"{path}: names no pictures; write one, class/file, a line")
    return names
