"""Where the pictures of a data set of one's own are, whose list names them on another disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def locate_pictures(stored: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Paths below a folder of the pictures of a list.

    What stands before them is the disk of whoever made the list, and goes: of the folders of a
    picture, as many of the last ones are kept as there are in `folder`, in this order, or in one of
    the folders in it. `/home/me/data/birds/images/ox/1.jpg` becomes `images/ox/1.jpg` where
    `folder/images/ox` is, and `1.jpg` where none of these is.

    Args:
      stored: paths with `/`, without `..`.
      folder: which holds the pictures.
    """
    tops = (
        ["", *sorted(f"{p.name}/" for p in folder.iterdir() if p.is_dir())]
        if folder.is_dir()
        else [""]
    )
    known: dict[str, str] = {}
    found = []
    for path in stored:
        above, _, name = path.rpartition("/")
        if above not in known:
            known[above] = _below(above, folder, tops)
        found.append(known[above] + name)
    return tuple(found)


def _below(above: str, folder: Path, tops: Sequence[str]) -> str:
    """Of a picture's folders those that are below `folder`, with a `/` behind; "" for none."""
    parts = above.split("/")
    for first in range(len(parts)):
        tail = "/".join(parts[first:])
        for top in tops:
            if tail and (folder / top / tail).is_dir():
                return f"{top}{tail}/"
    return ""
