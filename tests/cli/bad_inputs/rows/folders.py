"""A user's own folders of pictures."""

from __future__ import annotations

from tests.cli.bad_inputs.world import Bad, World


def _no_pictures(world: World) -> list[str]:
    for file in (world.folder() / "pictures" / "class 0").iterdir():
        file.unlink()
    return world.build()


def _no_table(world: World) -> list[str]:
    (world.folder() / "attributes.csv").unlink()
    return world.build()


def _broken_link(world: World) -> list[str]:
    (world.folder() / "pictures" / "class 0" / "x.jpg").symlink_to("/mnt/nothing/x.jpg")
    return world.build()


def _link_to_another_class(world: World) -> list[str]:
    pictures = world.folder() / "pictures"
    (pictures / "class 0" / "x.jpg").symlink_to(pictures / "class 1" / "0.jpg")
    return world.build()


def _test_list(world: World, line: str, *flags: str) -> list[str]:
    (world.folder() / "test.txt").write_text(f"{line}\n")
    return world.build("folder", *flags, root="mine")


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
        "no picture of a seen class",
        _no_pictures,
        "class 0",
        "a seen class without pictures",
        "add some",
    ),
    Bad(
        "test list that names no picture",
        lambda w: _test_list(w, "class 0/77.jpg"),
        "test.txt",
        "line 1: 'class 0/77.jpg': not a picture of a class",
        "write class/file",
    ),
    Bad(
        "test list and a seed",
        lambda w: _test_list(w, "class 0/0.jpg", "--seed=3"),
        "test.txt",
        "--seed=3",
        "leave it out",
    ),
    Bad(
        "no attributes.csv", _no_table, "attributes.csv", "no such file", "create it with a header"
    ),
    Bad("broken link", _broken_link, "x.jpg", "nothing at /mnt/nothing/x.jpg", "restore what"),
    Bad(
        "picture of two classes",
        _link_to_another_class,
        "class 1/0.jpg",
        "is the same file as",
        "remove one of the two",
    ),
    Bad(
        "all attributes alike in all classes",
        lambda w: w.table(r"(?s)\A.*", "class,a,b\nclass 0,1,1\nclass 1,1,1\n"),
        "attributes.csv",
        "every attribute has the same value in all classes",
        "give values that differ",
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
