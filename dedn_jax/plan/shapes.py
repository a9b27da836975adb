"""The sizes of a problem: a data set's, the published ones of a recipe, or made-up ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.published import RECIPES
from dedn_jax.errors import InputError
from dedn_jax.model.groups import published_attributes, resolve_groups

WORD_DIM = 300  # GloVe 6B
FLAGS = ("images", "classes", "attributes", "channels", "regions", "groups", "picture")


@dataclasses.dataclass(frozen=True)
class Problem:
    """All sizes that a step's cost depends on.

    Attributes:
      source: where they are from.
      images: to train on.
      stored: all images of the data set, those of the test sets included.
      classes, attributes, channels, regions: K, A, C, R.
      groups: of attributes, as in `AttributeGroups.members`.
      batch: images of a step.
      dtype: of feature maps.
      picture: side of the pictures, pixels; 0 where feature maps are given.
      word_dim: of the word vectors.
    """

    source: str
    images: int
    stored: int
    classes: int
    attributes: int
    channels: int
    regions: int
    groups: tuple[tuple[int, ...], ...]
    batch: int
    dtype: str
    picture: int
    word_dim: int = WORD_DIM

    @classmethod
    def from_json(cls, value: dict) -> Problem:
        groups = tuple(tuple(g) for g in value["groups"])
        return cls(**{**value, "groups": groups})


def problem_sizes(config: ConfigDict, recipe: str, flags: Mapping[str, int | None]) -> Problem:
    """The sizes of `config`'s problem; flags come first, then the data set, then published sizes.

    Args:
      config: the recipe; `config.train.batch_size` and `config.data.dtype` are taken from it.
      recipe: its name, which says whose published sizes to take.
      flags: of `FLAGS`, None where not given, and `scale`.

    Raises:
      InputError: sizes that are missing or make no sense.
    """
    given = {k: v for k, v in flags.items() if k in FLAGS and v is not None}
    for name, value in given.items():
        if value < 1:
            raise InputError(f"--{name}={value}, expected at least 1")
    scale = flags.get("scale")
    scale = 1 if scale is None else scale
    if scale < 1:
        raise InputError(f"--scale={scale}, expected at least 1")
    pictures = config.data.source == "images"
    sizes, members, source = _known(config, recipe)
    if given or scale > 1:
        source = ", ".join([f"--{k}={v}" for k, v in given.items()] + [source][: bool(sizes)])
    for name in ("classes", "attributes"):
        if name in sizes and name not in given:
            sizes[name] *= scale
    if "images" in given:
        sizes["stored"] = given["images"]  # the test sets of what is made up are made up as well
    sizes |= {k: v for k, v in given.items() if k != "groups"}
    side = sizes.pop("picture", 0) or config.picture.crop
    if pictures:
        from dedn_jax.plan.programs import map_shape  # here: it imports JAX

        shape = dict(zip(("channels", "regions"), map_shape(config, side), strict=True))
        sizes = {**shape, **{k: v for k, v in sizes.items() if k not in shape or k in given}}
    missing = [
        k for k in ("images", "classes", "attributes", "channels", "regions") if k not in sizes
    ]
    if missing:
        raise InputError(
            f"dedn plan: no data set at config.data.path={config.data.path!r} and no published "
            f"sizes for {recipe!r}; give {', '.join('--' + k for k in missing)}"
        )
    attributes = sizes["attributes"]
    if members is None or "groups" in given or sum(map(len, members)) != attributes:
        members = _groups(config, attributes, given.get("groups"))
    return Problem(
        source=source + (f", --scale={scale}" if scale > 1 else ""),
        **sizes,
        groups=members,
        batch=config.train.batch_size * scale,
        dtype=config.data.dtype,
        picture=side if pictures else 0,
    )


def _known(
    config: ConfigDict, recipe: str
) -> tuple[dict[str, int], tuple[tuple[int, ...], ...] | None, str]:
    """Sizes, groups and their source: the data set's if it is there, else published ones."""
    path = config.data.path
    if path and Path(path).exists() and config.data.format != "demo":
        from dedn_jax.data.dataset import trainval_task
        from dedn_jax.data.load import load_dataset

        lazy = config.copy_and_resolve_references()
        lazy.data.memory_map = True  # sizes alone are wanted, not 19 GB
        dataset = load_dataset(lazy)
        task = trainval_task(dataset)
        sizes = {
            "images": len(task.train),
            "stored": len(task.inputs),
            "classes": len(task.class_ids),
            "attributes": dataset.num_attributes,
        }
        if config.data.source == "features":
            sizes |= {"channels": task.inputs.channels, "regions": task.inputs.regions}  # type: ignore[attr-defined]
        groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
        return sizes, groups.members, str(path)
    name = recipe.split("_")[0].lower()
    if name not in RECIPES:
        return {}, None, ""
    known = RECIPES[name]
    sizes = {
        "images": known.trainval,
        "stored": known.images,
        "classes": known.classes,
        "attributes": known.attributes,
        "channels": known.maps[0],
        "regions": known.maps[1],
    }
    return sizes, None, f"published sizes of {name.upper()}"


def _groups(config: ConfigDict, attributes: int, count: int | None) -> tuple[tuple[int, ...], ...]:
    """The recipe's own groups where it has some for so many attributes, else equal parts."""
    spec = config.data.groups
    if count is None:
        known = spec in ("cub", "awa2", "sun", "sun_released")
        if known and published_attributes(spec) == attributes:
            return resolve_groups(spec, np.ones((attributes, 1))).members
        count = 1
    if count > attributes:
        raise InputError(f"--groups={count}, expected 1 to {attributes} (attributes)")
    parts = np.array_split(np.arange(attributes), count)
    return tuple(tuple(int(i) for i in part) for part in parts)
