"""The sizes that `train_step` and `step_memory` measure, and random images of those sizes."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks.arguments import integers, positive
from dedn_jax.config import load_config
from dedn_jax.data.published import RECIPES
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError
from dedn_jax.interop.problem import Problem, random_problem

HOST_BYTES = 10**9  # of made-up feature maps


@dataclasses.dataclass(frozen=True)
class Size:
    """All that the cost of a step depends on.

    Attributes:
      name: among `SIZES`.
      data: the published data set whose recipe, attributes and groups are taken.
      channels: C.
      side: regions are side x side.
      classes: seen and unseen; None: as in the proposed splits.
    """

    name: str
    data: str
    channels: int
    side: int
    classes: tuple[int, int] | None = None


SIZES = {
    "small": Size("small", "cub", 1024, 7, (75, 25)),
    **{
        name: Size(name, name, known.maps[0], math.isqrt(known.maps[1]))
        for name, known in RECIPES.items()
    },
}


class MadeUp(NamedTuple):
    """Images to train on, and batches of them.

    Attributes:
      config: the recipe.
      features: `[images, channels, side, side]` float32, not normalised.
      labels: `[images]` int64.
      sampler: the recipe's, over all images.
      problem: the classes, and at hand the sampler's batches of steps 0 and 1.
    """

    config: ConfigDict
    features: np.ndarray
    labels: np.ndarray
    sampler: Sampler
    problem: Problem


def make_up(size: Size, most_bytes: int = HOST_BYTES) -> MadeUp:
    """As many images as the published data set trains on, but at most `most_bytes` of them.

    At least two batches; if batches are balanced, at least two images of each class.
    """
    config = load_config(f"{size.data}_gzsl")
    empty = random_problem(
        config, channels=size.channels, side=size.side, batches=0, classes=size.classes
    )
    seen, train = int(empty.seen.sum()), config.train
    least = 2 * max(train.batch_size, seen if train.balanced else 0)
    fitting = most_bytes // (4 * size.channels * size.side**2)
    images = max(least, min(fitting, RECIPES[size.data].trainval))
    rng = np.random.default_rng(config.seed)
    features = rng.standard_normal((images, size.channels, size.side, size.side), np.float32)
    np.maximum(features, 0, out=features)  # as after a ReLU
    labels = np.arange(images) % seen
    sampler = Sampler.from_config(np.arange(images), labels, config, stream=0)
    attributes, classes = empty.class_embeddings.shape[1], len(empty.seen)
    problem = dataclasses.replace(
        empty,
        description=f"{size.data}_gzsl: {images} images made up, "
        f"[{size.channels}, {size.side}, {size.side}] float32, batches of {sampler.size}, "
        f"{attributes} attributes, {seen} + {classes - seen} classes",
        batches=[(features[drawn], labels[drawn]) for drawn in map(sampler, range(2))],
    )
    return MadeUp(config, features, labels, sampler, problem)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags by which sizes are chosen, and that of the report."""
    parser.add_argument("--sizes", default="small", help=f"some of {','.join(SIZES)}")
    parser.add_argument("--channels", type=int, help="instead of the size's own")
    parser.add_argument("--side", type=int, help="likewise; regions are side x side")
    parser.add_argument("--classes", help="likewise; seen,unseen")
    parser.add_argument("--json", type=Path, help="write the report here as well")


def sizes_of(flags: argparse.Namespace) -> list[Size]:
    """The sizes named by the flags.

    Raises:
      InputError: an unknown size, or not a number.
    """
    names = flags.sizes.split(",")
    if not set(names) <= set(SIZES):
        raise InputError(f"--sizes={flags.sizes}, expected some of {', '.join(SIZES)}")
    changes: dict[str, int | tuple[int, int]] = {}
    for field in ("channels", "side"):
        if (value := getattr(flags, field)) is not None:
            changes[field] = positive(f"--{field}", value)
    if flags.classes is not None:
        seen, unseen = integers("--classes", flags.classes, 2)
        changes["classes"] = (positive("--classes", seen), positive("--classes", unseen))
    return [dataclasses.replace(SIZES[name], **changes) for name in names]  # type: ignore[arg-type]
