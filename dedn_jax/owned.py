"""What belongs to a run, sweep, feature store or prepared set: no output is written over it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

from dedn_jax.errors import InputError

P = TypeVar("P", bound=PurePath)


class _Kind(NamedTuple):
    """A kind of folder that a job wrote.

    Attributes:
      name: for messages.
      markers: files that are there from its beginning on.
      parts: matches the names of what belongs to it.
    """

    name: str
    markers: tuple[str, ...]
    parts: re.Pattern[str] = re.compile("")


# `result-40-epochs.json` is what a training that was carried on had ended with.
_IN_BOTH = r"\.lock|starts|result(-\d+-epochs)?\.json"
_RUN_PARTS = re.compile(
    rf"({_IN_BOTH}|(config|dataset|environment)\.json|metrics\.jsonl|tensorboard|validation|final)$"
)
_SWEEP_PARTS = re.compile(rf"({_IN_BOTH}|sweep\.json|sweep(-\d+-epochs)?\.png|points)$")
_KINDS = (
    _Kind("run", ("config.json", "dataset.json"), _RUN_PARTS),
    _Kind("sweep", ("sweep.json",), _SWEEP_PARTS),
    _Kind("feature store", ("manifest.json", "annotations.npz")),
    _Kind("feature store", ("plan.json", "annotations.npz")),
    _Kind("prepared set", ("dataset_info.json", "annotations.npz")),
)


def check_not_owned(path: Path) -> None:
    """Checks that a file to be written is no part of a run, sweep, store or prepared set.

    Links on the way to it are followed. New names beside the files of a run are free.

    Raises:
      InputError: it is; names the folder.
    """
    path = real_path(path.parent) / path.name
    if owner := owner_of(path, Path.is_file):
        raise owner.refusal(str(path), str(owner.folder))


class Owner(NamedTuple):
    """What a file is a part of.

    Attributes:
      kind: of what is in the folder.
      folder: the folder.
      part: the name in it that the file has or is under.
    """

    kind: str
    folder: PurePath
    part: str

    def refusal(self, path: str, folder: str) -> InputError:
        """What to say where the file is to be written; path and folder as the user knows them."""
        return InputError(
            f"{path}: {self.part} belongs to the {self.kind} in {folder}, which would be "
            "destroyed; choose another name"
        )


def owner_of(path: P, is_file: Callable[[P], bool]) -> Owner | None:
    """The run, sweep, store or prepared set that a file is a part of, if there is one.

    Args:
      path: of the file.
      is_file: whether there is a file of a path.
    """
    for folder in path.parents:
        for kind in _KINDS:
            if not all(is_file(folder / marker) for marker in kind.markers):
                continue
            first = path.relative_to(folder).parts[0]
            if kind.parts.match(first):
                return Owner(kind.name, folder, first)
    return None


def real_path(path: Path) -> Path:
    """A path without links.

    Raises:
      InputError: links that lead round in a circle.
    """
    # `Path.resolve` says nothing of circles from Python 3.13 on.
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path}: a link that leads round in a circle; remove it") from error
        return path.resolve()  # what does not exist, or may not be looked at
