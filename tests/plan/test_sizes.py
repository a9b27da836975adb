"""Where the sizes of a problem come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.plan.sizes import find_sizes
from tests.made_up import prepared_folder


@pytest.mark.parametrize(
    ("recipe", "sizes", "groups"),
    [
        ("cub_gzsl", (7057, 200, 312, 2048, 196), 6),
        ("sun_zsl", (10320, 717, 102, 2048, 196), 4),
        ("awa2_gzsl", (23527, 50, 85, 2048, 49), 4),
    ],
)
def test_published_sizes(recipe: str, sizes: tuple[int, ...], groups: int) -> None:
    config = load_config(recipe, ["--config.data.path=none"])
    p = find_sizes(config, recipe, {})
    assert (p.images, p.classes, p.attributes, p.channels, p.regions) == sizes
    assert len(p.groups) == groups
    assert sorted(i for g in p.groups for i in g) == list(range(p.attributes))


def test_flags_and_scale_make_larger_problems() -> None:
    config = load_config("cub_gzsl", ["--config.data.path=none"])
    p = find_sizes(config, "cub_gzsl", {"scale": 3, "classes": 1000, "groups": 4})
    assert (p.classes, p.attributes, p.batch) == (1000, 936, 150)
    assert [len(g) for g in p.groups] == [234] * 4
    assert "--classes=1000" in p.source and "--scale=3" in p.source
    # Groups of the recipe are for its own number of attributes.
    assert len(find_sizes(config, "cub_gzsl", {"attributes": 10}).groups) == 1


def test_a_data_set_that_is_there_says_its_own_sizes(tmp_path: Path) -> None:
    folder = prepared_folder(tmp_path)
    overrides = ["format=prepared", f"path={folder}", "source=images", "groups=single"]
    config = load_config("cub_gzsl", [f"--config.data.{o}" for o in overrides])
    config.backbone.name, config.picture.crop = "small", 64
    p = find_sizes(config, "mine", {})
    assert (p.classes, p.attributes, p.picture) == (8, 6, 64)
    assert p.images > 0 and p.channels > 1 and p.regions > 1
    assert np.concatenate(p.groups).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"classes": 0}, "--classes=0, expected at least 1"),
        ({"scale": 0}, "--scale=0"),
        ({"groups": 400}, "--groups=400, expected 1 to 312"),
    ],
)
def test_sizes_that_make_no_sense(flags: dict[str, int], message: str) -> None:
    config = load_config("cub_gzsl", ["--config.data.path=none"])
    with pytest.raises(InputError, match=message):
        find_sizes(config, "cub_gzsl", flags)


def test_unknown_recipes_need_flags() -> None:
    config = load_config("cub_gzsl", ["--config.data.path=none"])
    with pytest.raises(InputError, match="give --images, --classes, --attributes, --channels"):
        find_sizes(config, "mine", {})
