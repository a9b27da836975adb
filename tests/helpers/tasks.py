"""A task whose images tell which they are."""

from __future__ import annotations

import numpy as np

from dedn_jax.data.dataset import Task
from dedn_jax.data.features.maps import InMemoryFeatures

IMAGES, CHANNELS, REGIONS = 60, 3, 2


def make_task() -> Task:
    """Image i has features i everywhere and class i % 6."""
    maps = np.broadcast_to(
        np.arange(IMAGES, dtype=np.float32)[:, None, None], (IMAGES, CHANNELS, REGIONS)
    )
    labels = (np.arange(IMAGES) % 6).astype(np.int32)
    return Task(
        inputs=InMemoryFeatures(maps),
        labels=labels,
        class_ids=np.arange(6),
        class_embeddings=np.eye(6, dtype=np.float32),
        seen=np.arange(6) < 4,
        train=np.flatnonzero(labels < 4),
        eval_seen=np.arange(3),
        eval_unseen=np.flatnonzero(labels >= 4),
    )
