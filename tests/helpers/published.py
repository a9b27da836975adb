"""A small valid file in the published layout, as fields to write or to break."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES, PER_CLASS, ATTRIBUTES, WORD_DIM = 6, 4, 5, 3
CHANNELS, HEIGHT, WIDTH = 8, 3, 2
IMAGES = CLASSES * PER_CLASS


def published_fields() -> dict[str, Any]:
    """Classes 0, 1, 2, 4 are seen, 3 and 5 unseen; image 4k + j is picture j of class k.

    Pictures 0 to 2 of a seen class are in trainval, picture 3 in test-seen.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    number = np.tile(np.arange(PER_CLASS), CLASSES)
    unseen = np.isin(labels, [3, 5])
    return {
        "feature_map": rng.gamma(0.5, 3, (IMAGES, CHANNELS, HEIGHT, WIDTH)).astype(np.float32),
        "labels": labels,
        "trainval_loc": np.flatnonzero(~unseen & (number < 3)),
        "test_seen_loc": np.flatnonzero(~unseen & (number == 3)),
        "test_unseen_loc": np.flatnonzero(unseen),
        "att": rng.normal(0.3, 0.4, (CLASSES, ATTRIBUTES)),
        "original_att": rng.uniform(0, 100, (CLASSES, ATTRIBUTES)),
        "w2v_att": rng.normal(0, 1, (ATTRIBUTES, WORD_DIM)),
    }


# Arguments of `GZSLDataset.from_arrays`, by the fields of a published file; features are apart.
ARGUMENTS = {
    "labels": "labels",
    "class_embeddings": "att",
    "word_vectors": "w2v_att",
    "trainval": "trainval_loc",
    "test_seen": "test_seen_loc",
    "test_unseen": "test_unseen_loc",
}
