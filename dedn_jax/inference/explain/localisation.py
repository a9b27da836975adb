"""How often the attention for a part's attributes peaks at the part: APN's measure, on CUB.

Of every family of a part's attributes (such as `has_bill_shape`) the attribute with the highest
score is taken, and the peak of its region attention. Around the peak and around the part's
annotated point (the nearest to the peak, where it has several) lie boxes of a quarter of the bird's
bounding box in width and height, moved into the picture where they reach out of it. The peak is
right if the two overlap by an IoU of more than a half. The families of a part count as one in every
picture; the mean over parts leaves out the tail.

Source: the percentage of correctly localised parts of the Attribute Prototype Network (Xu et al.,
arXiv 2008.08290), and its code (wenjiaXu/APN-ZSL, `CAM_utils.get_IoU_Image`,
`main_utils.calculate_average_IoU`). Two differences: boxes are not rounded to whole pixels, and a
peak is its region's centre, where that code takes a corner for regions at the picture's edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from dedn_jax.errors import InputError
from dedn_jax.inference.explain.cub_parts import ATTRIBUTES, NOT_IN_MEAN, POINTS
from dedn_jax.inference.explain.decomposition import EXPERTS

BOX = 0.25  # of the bird's bounding box, in width and in height
IOU = 0.5  # that is exceeded where two boxes are the same part's
CHANCE = "chance"  # the peak in any region, all of them equally likely


@dataclasses.dataclass(frozen=True)
class Localisation:
    """Shares of peaks at their parts, from 0 to 1, by `coarse`, `fine` and `chance`.

    Attributes:
      overlap: share of peaks whose box overlaps the part's, by part (APN's measure).
      inside: share of peaks that lie within the part's box, by part.
      pictures: how many pictures show each part.
    """

    overlap: dict[str, dict[str, float]]
    inside: dict[str, dict[str, float]]
    pictures: dict[str, int]

    def mean(self, measure: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Over all parts but the tail, as published."""
        return {
            name: float(np.mean([share for part, share in parts.items() if part != NOT_IN_MEAN]))
            for name, parts in measure.items()
        }

    def to_json(self) -> dict[str, Any]:
        """All shares, and their means over parts but the tail."""
        return {
            name: {"parts": measure, "mean": self.mean(measure)}
            for name, measure in (("overlap", self.overlap), ("inside", self.inside))
        } | {"pictures": self.pictures, "box": BOX, "iou": IOU}

    def table(self) -> str:
        """A fixed-width table in percent, a line per part and one for the mean."""
        measures = ((f"IoU > {IOU}", self.overlap), ("peak in box", self.inside))
        head = " " * 15 + "".join(f"{title:^27}" for title, _ in measures)
        columns = "".join(f"{name:>9}" for _, measure in measures for name in measure)
        lines = [head.rstrip(), f"{'part':<6}{'pictures':>9}{columns}"]
        for part, count in self.pictures.items():
            cells = "".join(
                f"{100 * shares[part]:9.1f}" for _, m in measures for shares in m.values()
            )
            lines.append(f"{part:<6}{count:>9}{cells}")
        means = "".join(f"{100 * x:9.1f}" for _, m in measures for x in self.mean(m).values())
        return "\n".join([*lines, f"{'mean':<15}{means}  (without the {NOT_IN_MEAN})"])


class Localiser:
    """Takes in picture after picture.

    Args:
      attribute_names: of the data set.
      grid: rows and columns of the attention maps.
      side: of the pictures that the model sees, pixels.

    Raises:
      InputError: none of the attributes is named as one of CUB's parts.
    """

    def __init__(self, attribute_names: Sequence[str], grid: tuple[int, int], side: int) -> None:
        self._families = attribute_families(attribute_names)
        rows, columns = grid
        y, x = np.divmod(np.arange(rows * columns), columns)
        self._centres = np.stack([(x + 0.5) * side / columns, (y + 0.5) * side / rows], -1)
        self._side = side
        # By part: one `[2 measures, 3 rows]` a picture.
        self._found: dict[str, list[np.ndarray]] = {part: [] for part in POINTS}

    def add(
        self,
        scores: Float[np.ndarray, "experts attributes"],
        attention: Float[np.ndarray, "experts attributes regions"],
        points: Mapping[str, Float[np.ndarray, " xy"]],
        bird: Float[np.ndarray, " corners"],
    ) -> None:
        """Takes in a picture.

        Args:
          scores: of the region branch of each expert.
          attention: of the regions.
          points: x and y of the visible annotated points, in pixels of what the model sees.
          bird: least x and y and greatest x and y of the bird's bounding box there.
        """
        low, high = bird.reshape(2, 2).clip(0, self._side)
        size = (high - low) * BOX
        if (size <= 0).any():
            return  # the crop shows nothing of the bird
        for part, families in self._families.items():
            places = [points[n] for n in POINTS[part] if n in points]
            visible = [p for p in places if (p >= 0).all() and (p <= self._side).all()]
            if not visible or not families:
                continue
            right = self._right(np.stack(visible), size)  # [2 measures, regions]
            peaks = [
                [attention[e, family[scores[e, family].argmax()]].argmax() for family in families]
                for e in range(len(EXPERTS))
            ]
            by_expert = [right[:, of_families].mean(1) for of_families in peaks]
            self._found[part].append(np.stack([*by_expert, right.mean(1)], -1))

    def result(self) -> Localisation:
        """Of all pictures taken in.

        Raises:
          InputError: none of them shows a part.
        """
        means = {part: np.mean(found, 0) for part, found in self._found.items() if found}
        if not set(means) - {NOT_IN_MEAN}:
            raise InputError(
                f"no picture shows an annotated part other than the {NOT_IN_MEAN}; give pictures "
                "that part_locs.txt has points of"
            )
        overlap, inside = (
            {
                name: {part: float(mean[m, row]) for part, mean in means.items()}
                for row, name in enumerate((*EXPERTS, CHANCE))
            }
            for m in range(2)
        )
        return Localisation(overlap, inside, {part: len(self._found[part]) for part in means})

    def _right(
        self, places: Float64[np.ndarray, "places xy"], size: Float64[np.ndarray, " xy"]
    ) -> Bool[np.ndarray, "measures regions"]:
        """Whether a peak in each region would be right, by both measures."""
        distance = np.square(self._centres[:, None] - places).sum(-1)
        nearest = places[distance.argmin(1)]
        part, peak = (_box(c, size, self._side) for c in (nearest, self._centres))
        shared = np.minimum(part + size, peak + size) - np.maximum(part, peak)
        area = shared.clip(0).prod(-1)
        overlap = area / (2 * size.prod() - area) > IOU
        inside = ((self._centres >= part) & (self._centres <= part + size)).all(-1)
        return np.stack([overlap, inside])


def attribute_families(names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """By part, the attributes of each of its families, such as `has_bill_shape`.

    Raises:
      InputError: none of the attributes is named as one of CUB's parts.
    """
    family = np.array([name.split("::")[0] for name in names])
    found = {
        part: [np.flatnonzero(family == f) for f in families if (family == f).any()]
        for part, families in ATTRIBUTES.items()
    }
    if not any(found.values()):
        raise InputError(
            f"the attributes are named {names[0]!r} and so on, expected CUB's names, such as "
            "'has_bill_shape::dagger'; give its attributes.txt with --attributes"
        )
    return found


def _box(
    centres: Float64[np.ndarray, "regions xy"], size: Float64[np.ndarray, " xy"], side: int
) -> Float64[np.ndarray, "regions xy"]:
    """Left upper corners of boxes, moved into the picture."""
    return (centres - size / 2).clip(0, side - size)
