"""Part annotations in the layout of CUB_200_2011."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# In the order of its parts.txt.
CUB_POINTS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
)


def write_cub(
    root: Path,
    visible: Mapping[str, Mapping[str, tuple[float, float]]],
    boxes: Mapping[str, tuple[float, float, float, float]],
) -> None:
    """Writes the four text files that `read_parts` reads.

    Args:
      root: in place of `CUB_200_2011`.
      visible: x and y of the visible points, by `class/file.jpg`.
      boxes: x, y, width and height of the bird, by the same names.
    """
    (root / "parts").mkdir(parents=True, exist_ok=True)
    parts = [f"{i} {name}\n" for i, name in enumerate(CUB_POINTS, 1)]
    (root / "parts" / "parts.txt").write_text("".join(parts))
    images, locations, birds = [], [], []
    for image, (name, points) in enumerate(visible.items(), 1):
        images.append(f"{image} {name}\n")
        birds.append(f"{image} {' '.join(map(str, boxes[name]))}\n")
        for part, point in enumerate(CUB_POINTS, 1):
            x, y = points.get(point, (0.0, 0.0))
            locations.append(f"{image} {part} {x} {y} {int(point in points)}\n")
    (root / "images.txt").write_text("".join(images))
    (root / "bounding_boxes.txt").write_text("".join(birds))
    (root / "parts" / "part_locs.txt").write_text("".join(locations))
