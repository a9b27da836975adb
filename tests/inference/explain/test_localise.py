"""From CUB's text files and pictures to shares of peaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.pictures.pictures import PictureTransform
from dedn_jax.errors import InputError
from dedn_jax.inference.explain.cub_parts import ATTRIBUTES, POINTS
from dedn_jax.inference.explain.localise import localise, pictures_of_unseen_classes
from dedn_jax.inference.explain.part_files import read_parts
from dedn_jax.inference.picture_files import read_pixels
from dedn_jax.inference.scorer import Attention
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.scores import Branches
from tests.helpers.cub import CUB_POINTS, write_cub
from tests.helpers.picture_runs import PictureRuns

GRID, CROP = 16, 128
NAMES = [f"{family}::a" for families in ATTRIBUTES.values() for family in families]


class LooksAtRed:
    """In place of a scorer: coarse attends to what is red, fine to the mirrored place."""

    transform = PictureTransform(144, CROP, augment=False, smallest_area=1.0, flip_probability=0.0)
    grid = GRID, GRID
    batch_size = 4

    def attention(self, pictures: np.ndarray) -> tuple[PerExpert, PerExpert]:
        assert pictures.shape[1:] == (CROP, CROP, 3)
        red = pictures[..., 0].astype(np.float32) - pictures[..., 1]
        cell = CROP // GRID
        pooled = red.reshape(-1, GRID, cell, GRID, cell).mean((2, 4)) + 1e-3
        pooled /= pooled.sum((1, 2), keepdims=True)
        maps = [np.repeat(x.reshape(len(x), 1, -1), len(NAMES), 1) for x in _mirrored(pooled)]
        none = np.zeros((len(pictures), len(NAMES)), np.float32)
        scores = PerExpert(*[Branches(none, none)] * 2)
        return scores, PerExpert(*(Attention(m, none[..., None]) for m in maps))


def _mirrored(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return maps, maps[:, :, ::-1]


def _ignore(*_: object) -> None:
    pass


def _birds(root: Path) -> list[str]:
    """Pictures of several shapes with one visible point each, which is red."""
    pictures, visible = {}, {}
    shapes = [(160, 220), (220, 160), (150, 150), (300, 200), (90, 130)]
    for number, point in enumerate(CUB_POINTS):
        height, width = shapes[number % len(shapes)]
        # Left of the middle and within the crop, so that the mirrored place is another.
        x, y = 0.35 * width, (0.3 + 0.4 * number / len(CUB_POINTS)) * height
        pixels = np.full((height, width, 3), 90, np.uint8)
        pixels[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = (255, 0, 0)
        name = f"001.Jay/{number}.png"
        pictures[name] = pixels
        visible[name] = {point: (x, y)}
    boxes = {name: (0, 0, p.shape[1], p.shape[0]) for name, p in pictures.items()}
    write_cub(root, visible, boxes)
    for name, pixels in pictures.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return [str(root / "images" / name) for name in pictures]


def test_attention_that_follows_the_pixels_finds_every_part(tmp_path: Path):
    """Through decoding, resizing, cropping and the mapping of points; the mirror misses."""
    paths = _birds(tmp_path)
    annotations = read_parts(tmp_path / "parts")
    skipped: list[str] = []
    counted: list[int] = []
    found = localise(
        LooksAtRed(),
        annotations,
        NAMES,
        paths,
        skip=lambda name, _: skipped.append(name),
        advance=counted.append,
    )
    assert found.overlap["coarse"] == dict.fromkeys(POINTS, 1.0)
    assert found.inside["coarse"] == dict.fromkeys(POINTS, 1.0)
    assert found.overlap["fine"] == found.inside["fine"] == dict.fromkeys(POINTS, 0.0)
    assert found.pictures == {part: len(points) for part, points in POINTS.items()}
    assert 0 < found.mean(found.overlap)["chance"] < 0.05
    assert not skipped and counted == [4, 4, 4, 3]


def test_damaged_pictures_are_skipped(tmp_path: Path):
    paths = _birds(tmp_path)
    Path(paths[3]).write_bytes(b"not a picture")
    skipped: dict[str, InputError] = {}
    annotations = read_parts(tmp_path / "parts")
    found = localise(
        LooksAtRed(), annotations, NAMES, paths, skip=skipped.__setitem__, advance=_ignore
    )
    assert list(skipped) == [paths[3]]
    assert "expected JPEG, PNG" in str(skipped[paths[3]])
    assert sum(found.pictures.values()) == len(paths) - 1


def test_pictures_that_are_not_annotated(tmp_path: Path):
    paths = _birds(tmp_path)
    annotations = read_parts(tmp_path / "parts")
    other = tmp_path / "images" / "001.Jay" / "x.png"
    other.write_bytes(Path(paths[0]).read_bytes())
    with pytest.raises(InputError, match=r"'001.Jay/x.png' is not annotated"):
        localise(
            LooksAtRed(), annotations, NAMES, [*paths, str(other)], skip=_ignore, advance=_ignore
        )


def test_a_trained_run(picture_runs: PictureRuns, tmp_path: Path):
    """What is counted is what the run attends to."""
    run = picture_runs.images
    folder = picture_runs.folder
    names = [f"{c}/{i}.jpg" for c in ("class 6", "class 7") for i in range(6)]
    pixels = {name: read_pixels(folder / name) for name in names}
    places = {n: {"left wing": (p.shape[1] / 2, p.shape[0] / 2)} for n, p in pixels.items()}
    write_cub(tmp_path, places, {n: (0, 0, p.shape[1], p.shape[0]) for n, p in pixels.items()})
    attributes = ["has_wing_color::a", "x", "has_wing_color::b", "has_wing_shape::a", "y", "z"]
    annotations = read_parts(tmp_path / "parts")
    paths = pictures_of_unseen_classes(folder, run.candidates)
    assert paths == [str(folder / name) for name in names]
    found = localise(
        run.picture_scorer, annotations, attributes, paths, skip=_ignore, advance=_ignore
    )

    rows, columns = run.picture_scorer.grid
    side = run.picture_scorer.transform.crop
    right = []
    for path in paths:
        e = run.explain(path)
        by_family = []
        for family in ([3], [0, 2]):
            best = family[int(np.argmax(e.attributes[1, 0, family]))]
            row, column = divmod(int(e.region_attention[1, best].argmax()), columns)
            peak = (np.array([column, row]) + 0.5) * side / np.array([columns, rows])
            by_family.append((abs(peak - side / 2) <= side / 8).all())
        right.append(np.mean(by_family))
    assert found.inside["fine"] == {"wing": pytest.approx(np.mean(right))}


def test_classes_without_a_folder(picture_runs: PictureRuns, tmp_path: Path):
    with pytest.raises(InputError, match="no folder of the unseen class 'class 6'"):
        pictures_of_unseen_classes(tmp_path, picture_runs.images.candidates)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("parts/part_locs.txt", "1 1 ", "1 99 ", "line 1: part 99 is not in parts.txt"),
        ("parts/part_locs.txt", " 0\n", " often\n", "'often' is not a finite number"),
        ("parts/part_locs.txt", "1 2 ", "1.5 2 ", "'1.5' is not a whole number"),
        ("images.txt", "1 001", "1001", "line 1: '1001.Jay/0.png', expected 2 values"),
        ("bounding_boxes.txt", "1 0 0", "1 0 nan", "line 1: 'nan' is not a finite number"),
        ("parts/parts.txt", None, None, "parts.txt: No such file or directory; give the parts"),
        ("bounding_boxes.txt", None, None, "bounding_boxes.txt: No such file"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, old: str | None, new: str, message: str):
    _birds(tmp_path)
    path = tmp_path / file
    if old is None:
        path.unlink()
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_parts(tmp_path / "parts")
    assert message in str(caught.value) and path.name in str(caught.value)
    assert "\n" not in str(caught.value)
