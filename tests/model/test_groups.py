"""Attribute groups: the published tables and every other way to name a partition."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.model.groups import AttributeGroups, as_groups, resolve_groups


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "attributes", "sizes"),
    [
        ("cub", 312, (112, 87, 24, 40, 15, 34)),
        ("awa2", 85, (18, 15, 38, 14)),
        ("sun", 102, (38, 27, 17, 20)),
        ("sun_released", 102, (64, 27, 9, 2)),
    ],
)
def test_published_tables(name, attributes, sizes):
    groups = resolve_groups(name, vectors(attributes))
    assert groups.sizes == sizes
    assert groups.num_attributes == attributes
    assert sorted(groups.order.tolist()) == list(range(attributes))
    assert all(list(m) == sorted(m) for m in groups.members)
    assert len(groups.names) == len(sizes)
    assert groups.order.tolist() == [i for m in groups.members for i in m]


def ranges(*pairs: tuple[int, int]) -> tuple[int, ...]:
    return tuple(i for a, b in pairs for i in range(a, b))


def test_members_of_cub():
    groups = dict(zip(*_named("cub", 312), strict=True))
    assert groups["torso"] == ranges((24, 73), (105, 120), (197, 212), (236, 240), (244, 248))
    assert groups["wing"] == ranges((9, 24), (212, 217), (308, 312))
    assert groups["tail"] == ranges((73, 94), (167, 182), (240, 244))
    assert groups["leg"] == ranges((263, 278))
    assert groups["whole body"] == ranges((217, 236), (248, 263))
    assert groups["head"] == ranges((0, 9), (94, 105), (120, 167), (182, 197), (278, 308))


def test_members_of_awa2():
    groups = dict(zip(*_named("awa2", 85), strict=True))
    assert groups["limb"] == ranges((18, 33))
    assert groups["abstract"] == ranges((33, 64), (78, 85))
    assert groups["environment"] == ranges((64, 78))
    assert groups["texture"] == ranges((0, 18))


def test_members_of_sun():
    groups = resolve_groups("sun", vectors(102)).members
    assert groups[0] == ranges((0, 38))
    assert groups[2] == ranges((65, 74), (77, 85))
    assert groups[3] == ranges((74, 77), (85, 102))
    released = resolve_groups("sun_released", vectors(102)).members
    assert released[1] == ranges((38, 65))
    assert released[2] == (*range(77, 85), 93)
    assert released[3] == (85, 99)
    assert released[0] == ranges((0, 38), (65, 77), (86, 93), (94, 99), (100, 102))


def _named(spec: str, attributes: int) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    groups = resolve_groups(spec, vectors(attributes))
    return groups.names, groups.members


def test_single_and_data():
    assert resolve_groups("single", vectors(4)) == AttributeGroups(("all",), ((0, 1, 2, 3),))
    own = AttributeGroups(("a", "b"), ((0, 3), (1, 2)))
    assert resolve_groups("data", vectors(4), own) is own
    assert own.order.tolist() == [0, 3, 1, 2]


def test_list():
    groups = resolve_groups("0-2, 5 ;3-4;6", vectors(7))
    assert groups.members == ((0, 1, 2, 5), (3, 4), (6,))
    assert groups.names == ("group 0", "group 1", "group 2")


def test_clusters():
    rng = np.random.default_rng(1)
    centers = np.eye(3, 6) * 10
    label = rng.integers(0, 3, 30)
    points = centers[label] + rng.normal(0, 0.1, (30, 6))
    groups = resolve_groups("clusters:3", points)
    assert groups.num_attributes == 30
    assert sorted(groups.members) == sorted(
        tuple(np.flatnonzero(label == k).tolist()) for k in range(3)
    )
    assert groups.members[0][0] == 0  # ordered by first attribute, whatever k-means called it
    assert groups == resolve_groups("clusters:3", points)
    assert groups == resolve_groups("clusters:3:7", points * 5)  # directions, not lengths
    assert resolve_groups("clusters:1", points).sizes == (30,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cub", "'cub' is for 312 attributes, the data have 7"),
        ("nonsense", "'nonsense', expected one of cub, awa2, sun, sun_released, single, data"),
        ("", "expected one of"),
        ("data", "has no groups"),
        ("clusters:0", "expected 1 to 7"),
        ("clusters:8", "expected 1 to 7"),
        ("clusters:x", "expected one of"),
        ("0-3;5-6", "attribute 4 is in no group"),
        ("0-3;4-7", r"'0-3;4-7': attribute 7, but .* only 7 \(0-based\)"),
        ("0-99999999999999", "attribute 99999999999999, but"),
        ("0-3;3-6", "attribute 3 is in a group twice or in two"),
        ("0-3,3;4-6", "attribute 3 is in a group twice or in two"),
        ("0-6;", "an empty group"),
        ("0-6;6-5", "an empty group"),
        ("0-3;4-5-6", "cannot read '4-5-6'"),
        ("0 1;2-6", "cannot read '0 1'"),
        (";", "attribute 0 is in no group"),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve_groups(spec, vectors(7))
    assert "config.data.groups" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_of_a_mapping() -> None:
    groups = as_groups({"wing": [4, 1], "head": range(1), "tail": np.array([3, 2])}, vectors(5))
    assert groups == AttributeGroups(("wing", "head", "tail"), ((1, 4), (0,), (2, 3)))
    assert as_groups(groups, vectors(5)) is groups
    assert as_groups("0;1-4", vectors(5)) == resolve_groups("0;1-4", vectors(5))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 1], "b": [3]}, "attribute 2 is in no group"),
        ({"a": [0, 1, 4], "b": [2, 3]}, r"attribute 4, but the data have only 4 \(0-based\)"),
        ({"a": [-1, 0, 1], "b": [2, 3]}, "attribute -1, but"),
        ({"a": [0, 1, 2], "b": [2, 3]}, "attribute 2 is in a group twice or in two"),
        ({"a": [0, 1, 2, 3], "b": []}, "an empty group"),
        ({}, "attribute 0 is in no group"),
        (AttributeGroups(("a",), ((0, 1, 2),)), "attribute 3 is in no group"),
    ],
)
def test_mappings_that_are_no_partition(groups, message):
    with pytest.raises(InputError, match=message):
        as_groups(groups, vectors(4))
