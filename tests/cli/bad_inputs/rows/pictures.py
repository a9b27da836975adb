"""Pictures."""

from __future__ import annotations

import dataclasses

from dedn_jax.data.prepared.build import build
from dedn_jax.data.sources.folder import read_folder
from tests.cli.bad_inputs.making import jpeg, png
from tests.cli.bad_inputs.world import Bad, World


def _build_with(world: World, data: bytes, name: str = "class 1/0.jpg") -> list[str]:
    world.picture(data, name)
    return world.build()


def _two_damaged(world: World) -> list[str]:
    world.picture(b"no")
    (world.root / "mine" / "pictures" / "class 2" / "0.jpg").write_bytes(jpeg()[:2000])
    return world.build()


def _only_damaged(world: World) -> list[str]:
    world.picture(b"no")
    for file in (world.root / "mine" / "pictures" / "class 1").iterdir():
        file.write_bytes(b"no")
    return world.build()


def _check_with(world: World, data: bytes, name: str = "class 1/0.jpg") -> list[str]:
    world.picture(data, name)
    return world.check()


def _extract_with(world: World, data: bytes, name: str) -> list[str]:
    """From a prepared set that holds the picture, as those of earlier versions may."""
    world.picture(data, name)
    found = read_folder(world.root / "mine")
    unread = [dataclasses.replace(p, upright=False) for p in found.pictures]
    facts = [None] * len(unread)  # not decoded
    build(dataclasses.replace(found, pictures=unread), world.root / "out", facts=facts)
    return world.extract(prepared=world.root / "out" / "mine")


def _show_with(world: World, data: bytes) -> list[str]:
    _extract_with(world, data, "class 1/0.jpg")
    return ["data", "show", f"{world.root}/out/mine", f"--out={world.root}/pages"]


PICTURES = [
    Bad(
        "truncated JPEG at check",
        lambda w: _check_with(w, jpeg()[:2000]),
        "class 1/0.jpg",
        "1 of 24 pictures cannot be used; the first is pictures/class 1/0.jpg: the picture is trun",
        "fetch the file again",
    ),
    Bad(
        "text named .jpg at check",
        lambda w: _check_with(w, b"not a picture"),
        "class 1/0.jpg",
        "1 of 24 pictures cannot be used; the first is pictures/class 1/0.jpg: not a picture in",
        "convert or remove it",
    ),
    Bad(
        "text named .jpg at build",
        lambda w: _build_with(w, b"not a picture"),
        "class 1/0.jpg",
        "not a picture in a supported format",
        "convert or remove it",
    ),
    Bad(
        "several that cannot be decoded at build",
        _two_damaged,
        "mine",
        "2 of 24 pictures cannot be decoded; the first is ",
        "--skip-unreadable lists them all and leaves them out",
    ),
    Bad(
        "no picture of a class that can be decoded",
        lambda w: [*_only_damaged(w), "--skip-unreadable"],
        "mine",
        "none of the training pictures of 'class 1' can be decoded",
        "fetch them again, or take the class out of the set",
    ),
    Bad(
        "empty picture",
        lambda w: _build_with(w, b""),
        "class 1/0.jpg",
        "is empty",
        "fetch the picture again or remove it",
    ),
    Bad(
        "decompression bomb at check",
        lambda w: _check_with(w, png(9500, 9500), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (9500 x 9500 pixels, expected at most 80000000)",
        "scale it down or remove it",
        outside=True,  # Pillow warns of pictures of this size; the tests' filters would hide it
    ),
    Bad(
        "decompression bomb at build",
        lambda w: _build_with(w, png(30000, 30000), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (Image size (900000000 pixels) exceeds limit",
        "scale it down or remove it",
    ),
    Bad(
        "truncated JPEG at extraction",
        lambda w: _extract_with(w, jpeg()[:2000], "class 1/0.jpg"),
        "class 1/0.jpg",
        "the picture is truncated",
        "fetch the file again",
    ),
    Bad(
        "decompression bomb at extraction",
        lambda w: _extract_with(w, png(9000, 8900), "class 1/bomb.png"),
        "class 1/bomb.png",
        "too large (9000 x 8900 pixels, expected at most 80000000)",
        "scale it down or remove it",
    ),
    Bad(
        "thin strip in contact sheets",
        lambda w: _show_with(w, png(8000, 8)),
        "class 1/0.jpg",
        "8000 x 8 pixels",
        "crop or remove it",
    ),
]
