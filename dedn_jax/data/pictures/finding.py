"""Finds the pictures in a folder and its subfolders, and leaves out what lies about in folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dedn_jax.data.pictures.decoding import begins_as_picture
from dedn_jax.errors import InputError

# Of the formats that are decoded, and of those that are not: such files are named, not left out.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".tga"),
    *(".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
)
# What systems and programs leave behind, beside all that is hidden (`.DS_Store`, `._picture.jpg`,
# `.ipynb_checkpoints`).
_LITTER = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
    )
)
_LITTER_STARTS = (".", "~$")


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
      pictures: files that are pictures by their names, or by their first bytes.
      real: the same, links resolved.
      others: files that are no pictures; litter is in neither.
    """

    pictures: list[Path]
    real: list[Path]
    others: list[Path]


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system or program."""
    return name.startswith(_LITTER_STARTS) or name.lower() in _LITTER


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted, litter left out.

    Raises:
      InputError: it cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not is_litter(name))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror or error}); see to its permissions"
        ) from error


def find_in_folder(folder: Path) -> Found:
    """The files of a folder, then those of its subfolders, each sorted by name.

    Links are followed. What has been found under another name already is left out, which also ends
    links that lead in circles. A broken link counts as the file that its name says.

    Raises:
      InputError: a folder cannot be listed.
    """
    found = Found([], [], [])
    _search(folder, folder.resolve(), set(), found)
    return found


def _search(folder: Path, real: Path, known: set[Path], found: Found) -> None:
    known.add(real)
    folders: list[tuple[Path, Path]] = []
    for name in entries(folder):
        path = folder / name
        # Resolving is slow over a network, and only a link can lead elsewhere.
        own = Path(os.path.realpath(path)) if path.is_symlink() else real / name
        if os.path.isdir(path):
            folders.append((path, own))
        elif own not in known:
            known.add(own)
            if is_picture(path):
                found.pictures.append(path)
                found.real.append(own)
            else:
                found.others.append(path)
    for path, own in folders:
        if own not in known:
            _search(path, own, known, found)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name, or else by its first bytes."""
    if path.name.lower().endswith((*SUFFIXES, *_UNREAD_SUFFIXES)):
        return True
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return begins_as_picture(file.read(16))
    except OSError:
        return False
