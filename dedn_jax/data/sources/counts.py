"""Counts of a data set next to the published ones."""

from __future__ import annotations

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.published import PUBLISHED
from dedn_jax.data.sources.xlsa17 import Xlsa17


def counts_table(splits: Xlsa17 | Annotations, benchmark: str | None = None) -> str:
    """How many images, classes and attributes there are, one a line.

    Args:
      splits: of a data set.
      benchmark: a name in `PUBLISHED`: the first line says whether the counts are the published
        ones; where they differ, both are shown.
    """
    classes, attributes = splits.class_embeddings.shape
    counts = {
        "trainval images": len(splits.trainval),
        "test-seen images": len(splits.test_seen),
        "test-unseen images": len(splits.test_unseen),
        "classes": classes,
        "attributes": attributes,
    }
    if splits.labels is not None:
        counts["seen classes"] = len(np.unique(splits.labels[splits.trainval]))
        # Those of one's own may have no pictures yet.
        unseen = getattr(splits, "unseen_classes", splits.labels[splits.test_unseen])
        counts["unseen classes"] = len(np.unique(unseen))
    published = {}
    if benchmark is not None:
        known = PUBLISHED[benchmark]
        published = {
            "trainval images": known.trainval,
            "test-seen images": known.test_seen,
            "test-unseen images": known.test_unseen,
            "classes": known.classes,
            "attributes": known.attributes,
            "seen classes": known.seen,
            "unseen classes": known.unseen,
        }
    lines, differ = [], False
    for what, count in counts.items():
        line = f"{what:<20}{count:6d}"
        if published.get(what, count) != count:
            line += f"   published {published[what]:6d}"
            differ = True
        lines.append(line)
    if benchmark is not None:
        state = "not the published splits" if differ else "as published"
        lines.insert(0, f"{benchmark}: {state}")
    return "\n".join(lines)
