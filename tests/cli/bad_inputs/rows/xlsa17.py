"""Benchmarks in the xlsa17 layout."""

from __future__ import annotations

import numpy as np
import scipy.io

from tests.cli.bad_inputs.world import XLSA17, Bad, World
from tests.helpers.xlsa17 import BOXES, cells, column, write_apy

APY = "APY/attribute_data"


def _mixed_up(world: World) -> list[str]:
    """res101.mat of a set with more classes and pictures."""
    command = world.tree()
    scipy.io.savemat(
        world.root / "mine" / XLSA17 / "res101.mat",
        {
            "image_files": cells([f"/x/images/{k}/{k}.jpg" for k in range(1, 31)]),
            "labels": column(range(1, 31)),
        },
    )
    return command


def _missing_pictures(world: World) -> list[str]:
    command = world.tree()
    for file in sorted((world.root / "mine" / "AWA2").rglob("*.jpg"))[:4]:
        file.unlink()
    return command


def _other_class(world: World) -> list[str]:
    labels = column(np.repeat(np.arange(1, 6), 3))
    labels[[0, 3]] = labels[[3, 0]]
    return world.tree(labels=labels)


def _damaged_mat(world: World) -> list[str]:
    command = world.tree()
    path = world.root / "mine" / XLSA17 / "att_splits.mat"
    path.write_bytes(path.read_bytes()[:400])
    return command


def _boxes(world: World, *last: tuple[int, int, int, int]) -> list[str]:
    """`data build APY` with other boxes of the last entries."""
    write_apy(world.root / "mine", [*BOXES[: -len(last)], *last])
    return world.build("APY")


def _no_boxes(world: World) -> list[str]:
    command = _boxes(world, BOXES[-1])
    (world.root / "mine" / APY / "ayahoo_test.txt").unlink()
    return command


def _other_boxes(world: World) -> list[str]:
    command = _boxes(world, BOXES[-1])
    path = world.root / "mine" / APY / "apascal_test.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    return command


XLSA = [
    Bad(
        "res101.mat of another set",
        _mixed_up,
        "res101.mat",
        "labels run from 1 to 30",
        "do the two files belong",
    ),
    Bad(
        "locations from 0",
        lambda w: w.tree(trainval_loc=column([0, 1, 3, 4, 6, 7, 10, 9])),
        "att_splits.mat",
        "trainval_loc holds 0, but locations count from 1",
        "add 1 to all locations",
    ),
    Bad(
        "locations past the last picture",
        lambda w: w.tree(test_unseen_loc=column([13, 14, 16])),
        "att_splits.mat",
        "test_unseen_loc holds 16, but res101.mat has 15 images",
        "do the two files belong together?",
    ),
    Bad(
        "missing pictures", _missing_pictures, "mine/AWA2", "4 of 15 pictures are missing", "unpack"
    ),
    Bad(
        "picture in another class's folder",
        _other_class,
        "res101.mat",
        "lies in the folder of class 1 and has label 2",
        "do att_splits.mat and res101.mat belong together?",
    ),
    Bad("damaged .mat", _damaged_mat, "att_splits.mat", "truncated", "download it again"),
    Bad(
        "no splits",
        lambda w: w.check("SUN"),
        "att_splits.mat",
        "no such file",
        "see docs/tutorials/cub.md",
    ),
    Bad(
        "boxes outside their pictures",
        lambda w: _boxes(w, (81, 1, 90, 60), (1, 61, 80, 90)),
        "ayahoo_test.txt: line 2",
        "box 81 1 90 60 has no usable part within rat_13.jpg, nor have 1 others of 15",
        "in their own size?",
    ),
    Bad(
        "no file of boxes",
        _no_boxes,
        "ayahoo_test.txt",
        "no such file, and it holds the boxes of the objects",
        "unpack the archive of attribute_data",
    ),
    Bad(
        "boxes of other pictures",
        _other_boxes,
        "apascal_test.txt: line 1",
        "an object in '2008_000005.jpg', but entry 7 of res101.mat is VOCdevkit/",
        "do the files belong together?",
    ),
    Bad(
        "unknown data set",
        lambda w: w.build("NABirds"),
        "NABirds",
        "unknown data set",
        "expected CUB, SUN, AWA2, AWA1, APY, FLO",
    ),
]
