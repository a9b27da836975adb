"""The sizes that a step's cost depends on: of a data set, the published ones, or made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import trainval_task
from dedn_jax.data.load import load_dataset
from dedn_jax.data.published import RECIPES
from dedn_jax.errors import InputError
from dedn_jax.model.groups import PUBLISHED_GROUPS, published_attributes, resolve_groups
from dedn_jax.training.network import feature_shape, init_backbone

WORD_DIM = 300  # GloVe 6B
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLAGS = ("images", "classes", "attributes", "channels", "regions", "groups", "picture", "scale")
_REQUIRED = ("images", "classes", "attributes", "channels", "regions")
Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All sizes that a step's cost depends on.

    Attributes:
      source: where they are from.
      images: to train on.
      stored: all images of the data set, those of the test sets included.
      classes, attributes, channels, regions: K, A, C, R.
      groups: of attributes, as in `AttributeGroups.members`.
      batch: images of a step.
      dtype: of feature maps.
      picture: side of the pictures, pixels; 0 where the inputs are feature maps.
      word_dim: of the word vectors.
    """

    source: str
    images: int
    stored: int
    classes: int
    attributes: int
    channels: int
    regions: int
    groups: Groups
    batch: int
    dtype: str
    picture: int
    word_dim: int = WORD_DIM

    @property
    def map_bytes(self) -> int:
        """Of one feature map."""
        return self.channels * self.regions * ITEM_BYTES[self.dtype]

    @classmethod
    def from_json(cls, value: dict) -> Sizes:
        groups = tuple(tuple(g) for g in value["groups"])
        return cls(**{**value, "groups": groups})


def find_sizes(config: ConfigDict, recipe: str, flags: Mapping[str, int | None]) -> Sizes:
    """The sizes of a recipe: flags come first, then the data set, then the published sizes.

    Args:
      config: the recipe; `config.train.batch_size` and `config.data.dtype` are taken from it.
      recipe: its name, which says whose published sizes to take.
      flags: of `FLAGS`, None where not given.

    Raises:
      InputError: a size is missing or out of range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name, value in given.items():
        if value < 1:
            raise InputError(f"--{name}={value}, expected at least 1")
    scale, picture, num_groups = (given.get(name) for name in ("scale", "picture", "groups"))
    sizes, groups, source = _from_dataset(config) or _from_recipe(recipe)
    sources = [f"--{name}={value}" for name, value in given.items() if name != "scale"]
    sources += [source] if sizes else []
    factor = scale or 1
    if factor > 1:
        sources.append(f"--scale={factor}")
        sizes |= {name: factor * sizes[name] for name in ("classes", "attributes") if name in sizes}
    if config.data.source == "images":
        side, field = picture or config.picture.crop, "--picture" if picture else None
        backbone = nnx.eval_shape(lambda: init_backbone(config))
        shape = feature_shape(backbone, side, field)
        sizes["channels"], sizes["regions"] = shape.channels, shape.regions
        sizes["picture"] = side
    sizes |= {name: given[name] for name in _REQUIRED if name in given}
    if "images" in given:
        sizes["stored"] = given["images"]  # made-up images have no test sets beside them
    missing = [f"--{name}" for name in _REQUIRED if name not in sizes]
    if missing:
        raise InputError(
            f"dedn plan: no data set at config.data.path={config.data.path!r} and no published "
            f"sizes for {recipe!r}; give {', '.join(missing)}"
        )
    attributes = sizes["attributes"]
    if groups is None or num_groups or sum(map(len, groups)) != attributes:
        groups = _groups(config, attributes, num_groups)
    return Sizes(
        source=", ".join(sources),
        groups=groups,
        batch=config.train.batch_size * factor,
        dtype=config.data.dtype,
        **({"picture": 0} | sizes),
    )


def _from_dataset(config: ConfigDict) -> tuple[dict[str, int], Groups, str] | None:
    """Sizes, groups and path of the data set; None where there is none."""
    path = config.data.path
    if not path or not Path(path).exists() or config.data.format == "demo":
        return None
    dataset = load_dataset(config, sizes_only=True)
    task = trainval_task(dataset)
    sizes = {
        "images": len(task.train),
        "stored": len(task.inputs),
        "classes": len(task.class_ids),
        "attributes": dataset.num_attributes,
    }
    if config.data.source == "features":
        features = dataset.features
        sizes |= {"channels": features.channels, "regions": features.regions}
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    return sizes, groups.members, str(path)


def _from_recipe(recipe: str) -> tuple[dict[str, int], None, str]:
    """The published sizes of the recipe's data set; none where its name is not of one."""
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


def _groups(config: ConfigDict, attributes: int, count: int | None) -> Groups:
    """The recipe's own groups where they are for so many attributes, else equal ones."""
    spec = config.data.groups
    if count is None:
        if spec in PUBLISHED_GROUPS and published_attributes(spec) == attributes:
            return resolve_groups(spec, np.ones((attributes, 1))).members
        count = 1
    if count > attributes:
        raise InputError(f"--groups={count}, expected 1 to {attributes} (attributes)")
    parts = np.array_split(np.arange(attributes), count)
    return tuple(tuple(part.tolist()) for part in parts)
