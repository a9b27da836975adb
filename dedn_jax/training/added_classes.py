"""A data set whose table of classes has grown since a run was trained on it.

New classes at the end of the table, described by their attributes, change nothing that training
saw: they are unseen candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError


def first_classes(dataset: GZSLDataset, recorded: Mapping[str, object]) -> GZSLDataset:
    """The data set with as many classes as the one that a run recorded; itself if it has no more.

    Classes beyond may have no images: then the data set is returned as it is.
    """
    count = recorded.get("classes")
    if type(count) is not int or not 0 < count < dataset.num_classes:
        return dataset
    if dataset.labels.max(initial=0) >= count:
        return dataset
    there = dataset.unpictured_classes
    there = None if there is None or not (there < count).any() else there[there < count]
    return dataclasses.replace(
        dataset,
        class_embeddings=dataset.class_embeddings[:count],
        class_names=dataset.class_names[:count],
        unpictured_classes=there,
    )


def with_candidates(dataset: GZSLDataset, count: int) -> GZSLDataset:
    """The data set with all classes after the first `count` as unseen candidates.

    Raises:
      InputError: one of them is described by nothing but zeros.
    """
    added = np.arange(count, dataset.num_classes)
    nothing = added[~dataset.class_embeddings[added].any(1)]
    if len(nothing):
        raise InputError(
            f"{dataset.source}: class {dataset.class_names[nothing[0]]!r}, which was added after "
            "training, has no attribute but 0; describe it, or leave it out"
        )
    there = dataset.unpictured_classes
    return dataclasses.replace(
        dataset, unpictured_classes=added if there is None else np.union1d(there, added)
    )
