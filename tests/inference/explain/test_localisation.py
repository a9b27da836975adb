"""Peaks of known attention against parts of known places."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.explain.localisation import Localiser, attribute_families

NAMES = (
    "has_bill_shape::dagger",
    "has_bill_shape::cone",
    "has_size::large",
    "has_eye_color::red",
    "has_wing_color::blue",
    "has_tail_shape::forked",
    "has_throat_color::white",
)
SIDE, ROWS = 80, 8  # regions of ten pixels
BIRD = np.array([0.0, 0.0, 80.0, 80.0])  # so that boxes are 20 pixels wide and high


def _attention(peaks: list[tuple[int, int]]) -> np.ndarray:
    """`[attributes, regions]`, by each attribute's column and row."""
    found = np.full((len(peaks), ROWS, ROWS), 0.5 / ROWS**2)
    for attention, (x, y) in zip(found, peaks, strict=True):
        attention[y, x] += 0.5
    return found.reshape(len(peaks), -1)


def _scores(*best: int) -> np.ndarray:
    found = np.zeros(len(NAMES))
    found[list(best)] = 1
    return found


def test_families_of_a_part():
    found = attribute_families(NAMES)
    assert [f.tolist() for f in found["head"]] == [[0, 1], [3]]
    assert [f.tolist() for f in found["breast"]] == [[6]]
    assert found["belly"] == []
    assert sum(len(f) for fs in found.values() for f in fs) == len(NAMES) - 1  # size is of no part


def test_known_attention():
    """Coarse looks at every part; fine at the eye alone, and at a place 8 pixels off the wing."""
    localiser = Localiser(NAMES, (ROWS, ROWS), SIDE)
    points = {
        "beak": np.array([15.0, 25.0]),
        "left eye": np.array([35.0, 15.0]),
        "right wing": np.array([55.0, 53.0]),
        "tail": np.array([75.0, 75.0]),
    }
    # A region's centre is at 10 · (column + ½). The bill's other shape has a lower score.
    coarse = _attention([(1, 2), (7, 7), (0, 0), (3, 1), (5, 5), (7, 7), (0, 0)])
    fine = _attention([(1, 2), (7, 0), (0, 0), (3, 1), (5, 4), (0, 7), (0, 0)])
    scores = np.stack([_scores(0), _scores(1)])
    localiser.add(scores, np.stack([coarse, fine]), points, BIRD)
    found = localiser.result()
    assert found.pictures == {"head": 1, "wing": 1, "tail": 1}  # the throat is not visible
    assert found.overlap["coarse"] == {"head": 1.0, "wing": 1.0, "tail": 1.0}
    # 8 pixels off: 240 of 560 square pixels are shared, but the peak is in the box.
    assert found.overlap["fine"] == {"head": 0.5, "wing": 0.0, "tail": 0.0}
    assert found.inside["fine"] == {"head": 0.5, "wing": 1.0, "tail": 0.0}
    assert found.mean(found.overlap)["fine"] == 0.25  # without the tail
    assert found.to_json()["inside"]["mean"]["fine"] == 0.75


def test_chance_counts_the_regions_that_would_be_right():
    localiser = Localiser(NAMES, (ROWS, ROWS), SIDE)
    point = np.array([40.0, 40.0])  # where four regions meet, each 5 pixels off in x and y
    flat = np.full((2, len(NAMES), ROWS**2), 1 / ROWS**2)
    localiser.add(np.zeros((2, len(NAMES))), flat, {"left wing": point}, BIRD)
    found = localiser.result()
    assert found.overlap["chance"]["wing"] == 0  # 15² of 2 · 400 − 15² is under a half
    assert found.inside["chance"]["wing"] == 4 / 64


@pytest.mark.parametrize(("x", "y"), list(itertools.product((0, 3, 7), (0, 4, 7))))
def test_boxes_are_moved_into_the_picture(x: int, y: int):
    """At the edge, the box of a point and that of the region it lies in are the same."""
    localiser = Localiser(NAMES, (ROWS, ROWS), SIDE)
    point = np.array([0.0 if x == 0 else 80.0 if x == 7 else 35.0, 10.0 * y + 5])
    attention = np.stack([_attention([(x, y)] * len(NAMES))] * 2)
    localiser.add(np.zeros((2, len(NAMES))), attention, {"left wing": point}, BIRD)
    assert localiser.result().overlap["fine"] == {"wing": 1.0}


def test_the_nearest_point_of_a_part_counts():
    localiser = Localiser(NAMES, (ROWS, ROWS), SIDE)
    points = {"left wing": np.array([5.0, 75.0]), "right wing": np.array([75.0, 5.0])}
    attention = np.stack([_attention([(7, 0)] * len(NAMES)), _attention([(0, 7)] * len(NAMES))])
    localiser.add(np.zeros((2, len(NAMES))), attention, points, BIRD)
    found = localiser.result()
    assert found.overlap["coarse"]["wing"] == found.overlap["fine"]["wing"] == 1


def test_means_are_over_pictures():
    localiser = Localiser(NAMES, (ROWS, ROWS), SIDE)
    hit = np.stack([_attention([(1, 1)] * len(NAMES))] * 2)
    miss = np.stack([_attention([(6, 6)] * len(NAMES))] * 2)
    points = {"left wing": np.array([15.0, 15.0])}
    for attention in (hit, miss, hit, hit):
        localiser.add(np.zeros((2, len(NAMES))), attention, points, BIRD)
    # Outside of the crop, and no bird in the crop: neither counts.
    localiser.add(np.zeros((2, len(NAMES))), miss, {"left wing": np.array([90.0, 15.0])}, BIRD)
    localiser.add(np.zeros((2, len(NAMES))), miss, points, BIRD + 100)
    found = localiser.result()
    assert found.overlap["coarse"] == {"wing": 0.75}
    assert found.pictures == {"wing": 4}


def test_nothing_to_measure():
    with pytest.raises(InputError, match=r"give its attributes\.txt with --attr"):
        attribute_families(["attribute 0", "attribute 1"])
    with pytest.raises(InputError, match="no picture shows an annotated part"):
        Localiser(NAMES, (ROWS, ROWS), SIDE).result()
