"""Example pictures: a few of the run's own test pictures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.load import load_prepared
from dedn_jax.training.run import TrainingRun


class Example(NamedTuple):
    """A test picture as its file's content, and its class."""

    encoded: bytes
    class_name: str


def example_pictures(run: TrainingRun, count: int) -> list[Example]:
    """Test pictures of different classes, unseen and seen in turn; none without a prepared set.

    Args:
      run: whose data set has them.
      count: how many; fewer where there are fewer classes.

    Raises:
      InputError: the data set cannot be loaded.
    """
    if run.config.data.format not in ("prepared", "demo"):
        return []
    prepared = load_prepared(run.config)
    data = prepared.annotations
    return [
        Example(prepared.pictures[image][0], data.class_names[data.labels[image]])
        for image in _chosen(data, count).tolist()
    ]


def _chosen(data: Annotations, count: int) -> Int[np.ndarray, " chosen"]:
    """The first test picture of classes spread over all classes, unseen and seen ones in turn."""
    firsts = []
    for split in (data.test_unseen, data.test_seen):
        _, first = np.unique(data.labels[split], return_index=True)
        wanted = min(len(first), (count + 1) // 2)
        spread = np.linspace(0, len(first) - 1, wanted).round().astype(int)
        firsts.append(split[first[spread]])
    unseen, seen = firsts
    both = min(len(unseen), len(seen))
    turns = np.stack([unseen[:both], seen[:both]], axis=1).ravel()
    return np.concatenate([turns, unseen[both:], seen[both:]])[:count]
