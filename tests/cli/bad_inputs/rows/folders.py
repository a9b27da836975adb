"""A user's own folders of pictures."""

from __future__ import annotations

from tests.cli.bad_inputs.making import jpeg
from tests.cli.bad_inputs.world import Bad, World


def _one_picture(world: World) -> list[str]:
    folder = world.folder() / "pictures" / "class 0"
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    return world.build()


def _no_table(world: World) -> list[str]:
    (world.folder() / "attributes.csv").unlink()
    return world.build()


def _leaving_link(world: World) -> list[str]:
    (world.root / "private.jpg").write_bytes(jpeg())
    (world.folder() / "pictures" / "class 0" / "x.jpg").symlink_to(world.root / "private.jpg")
    return world.build()


FOLDER = [
    Bad(
        "no row for a class",
        lambda w: w.table(r"^class 3,.*\n", ""),
        "pictures/class 3",
        "class 'class 3' has no row in attributes.csv",
        "add one",
    ),
    Bad(
        "a cell that is no number",
        lambda w: w.table(r"^class 2,\d", "class 2,often"),
        "attributes.csv",
        "line 4, column 'attribute 0': 'often' is not a finite number",
        "write it like 0.5",
    ),
    Bad(
        "two rows for a class",
        lambda w: w.table(r"^class 4,", "class 3,"),
        "attributes.csv",
        "class 'class 3' has two rows",
        "keep one",
    ),
    Bad(
        "one picture in a class",
        _one_picture,
        "class 0",
        "needs at least 2 pictures, found 1",
        "add some",
    ),
    Bad(
        "no attributes.csv", _no_table, "attributes.csv", "no such file", "create it with a header"
    ),
    Bad("link out of the folder", _leaving_link, "x.jpg", "a link that leads out of", "copy"),
    Bad(
        "attribute alike in all classes",
        lambda w: w.table(r"(?s)\A.*", "class,a,b\nclass 0,1,1\nclass 1,1,0\n"),
        "attributes.csv",
        "attribute 'a' has the same value in all classes",
        "remove the column",
    ),
    Bad(
        "attributes alike in all classes",
        lambda w: w.table(r"(?s)\A.*", "class,a,b,c\nclass 0,1,1,2\nclass 1,1,0,2\n"),
        "attributes.csv",
        "2 attributes ('a', 'c') have the same value in all classes",
        "remove the columns",
    ),
    Bad(
        "word vectors that are not there",
        lambda w: w.build("folder", "--word-vectors=none.npy", root=w.folder().name),
        "none.npy",
        "no such file",
        "pass an existing one as --word-vectors",
    ),
    Bad(
        "flag for benchmarks only",
        lambda w: w.build("folder", "--xlsa17=splits"),
        "--xlsa17=splits",
        "does not apply to folder, only to CUB, SUN",
        "leave it out",
    ),
    Bad(
        "flag for own classes only",
        lambda w: w.build("CUB", "--seed=0"),
        "--seed=0",
        "does not apply to CUB, only to folder",
        "leave it out",
    ),
    Bad(
        "word vectors for the demo",
        lambda w: w.check("demo", "--word-vectors=a.npy"),
        "--word-vectors=a.npy",
        "does not apply to demo",
        "leave it out",
    ),
    Bad(
        "no folder",
        lambda w: w.build(root="nowhere"),
        "nowhere",
        "no such folder",
        "pass the one with pictures/ as --root",
    ),
]
