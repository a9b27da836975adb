"""What `dedn explain` and `dedn localise` are given, before a model is needed."""

from __future__ import annotations

from pathlib import Path

from tests.cli.bad_inputs.making import jpeg
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.cub import write_cub


def _explain(world: World, *flags: str) -> list[str]:
    world.run()
    (world.root / "new.jpg").write_bytes(jpeg())
    out = f"--out={world.root}/why"
    return ["explain", f"--workdir={world.root}/run", f"{world.root}/new.jpg", out, *flags]


def _cub(world: World) -> Path:
    root = world.root / "CUB_200_2011"
    write_cub(root, {"001.Jay/0.jpg": {"beak": (5.0, 5.0)}}, {"001.Jay/0.jpg": (0, 0, 40, 40)})
    return root


def _localise(world: World, *flags: str) -> list[str]:
    world.run()
    names = [f"has_wing_color::{i}" for i in range(5)]
    (world.root / "attributes.txt").write_text("\n".join(names))
    attributes = f"--attributes={world.root}/attributes.txt"
    parts = f"--parts={_cub(world)}/parts"
    return ["localise", f"--workdir={world.root}/run", parts, attributes, *flags]


def _damaged(world: World, file: str, text: str) -> list[str]:
    command = _localise(world)
    (world.root / "CUB_200_2011" / file).write_text(text)
    return command


def _attributes(world: World, text: str) -> list[str]:
    command = _localise(world)
    (world.root / "attributes.txt").write_text(text)
    return command


EXPLANATIONS = [
    Bad(
        "a class to explain that is none",
        lambda w: _explain(w, "--class=clas 1"),
        "class 'clas 1'",
        "candidates has this name",
        "did you mean 'class 1'",
    ),
    Bad(
        "a class against itself",
        lambda w: _explain(w, "--class=class 1", "--against=class 1"),
        "class 'class 1'",
        "cannot be compared with itself",
        "name another one",
    ),
    Bad(
        "attributes that are not CUB's",
        lambda w: _attributes(w, "a\nb\nc\nd\ne\n"),
        "'a' and so on",
        "expected CUB's names",
        "give its attributes.txt with --attributes",
    ),
    Bad(
        "attributes of another set",
        lambda w: _attributes(w, "has_wing_color::blue\n"),
        "attributes.txt",
        "1 attributes, but the run has 5",
        "give the file of its data set",
    ),
    Bad(
        "no part annotations",
        lambda w: [*_localise(w), f"--parts={w.root}/none"],
        "none/parts.txt",
        "No such file or directory",
        "give the parts folder of an unpacked CUB_200_2011.tgz",
    ),
    Bad(
        "a part that parts.txt does not name",
        lambda w: _damaged(w, "parts/part_locs.txt", "1 16 3.0 4.0 1\n"),
        "part_locs.txt",
        "line 1: part 16 is not in parts.txt",
        "do the files belong together?",
    ),
    Bad(
        "a bounding box with too few numbers",
        lambda w: _damaged(w, "bounding_boxes.txt", "1 0.0 0.0 40.0\n"),
        "bounding_boxes.txt",
        "line 1: '1 0.0 0.0 40.0', expected 5 values",
        "give the parts folder of an unpacked CUB_200_2011.tgz",
    ),
    Bad(
        "no pictures of the unseen classes",
        _localise,
        "CUB_200_2011/images",
        "no folder of the unseen class",
        "name pictures or folders to measure on",
    ),
]
