"""The same picture, or the same feature map, under two classes, or to train on and to test with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from dedn_jax.data.annotations import Annotations


def repeats(
    annotations: Annotations,
    hashes: Sequence[str | bytes | None],
    name: Callable[[int], str],
    what: str,
) -> list[str]:
    """A line for each way in which images repeat one another that they should not.

    As data sets of objects may, whose images are not cut to them, or folders with copies in them.

    Args:
      annotations: of all images.
      hashes: of their contents; None: not known. Images in no split are not looked at.
      name: what to call an image.
      what: they are: picture, feature map.
    """
    used = in_splits(annotations)
    test = np.zeros(len(annotations.labels), bool)
    test[np.concatenate([annotations.test_seen, annotations.test_unseen])] = True
    first: dict[str | bytes, int] = {}
    classes, leaks = [], []
    for image, found in enumerate(hashes):
        if found is None or not used[image]:
            continue
        other = first.setdefault(found, image)
        if annotations.labels[image] != annotations.labels[other]:
            classes.append((other, image))
        if test[image] != test[other]:
            leaks.append((other, image))
    lines = []
    for pairs, fault in (
        (classes, "has several classes"),
        (leaks, "is trained on and tested with"),
    ):
        if pairs:
            several = f"{len(pairs)} times, first " if len(pairs) > 1 else ""
            both = " and ".join(map(name, pairs[0]))
            lines.append(f"{annotations.source}: the same {what} {fault}: {several}{both}")
    return lines


def in_splits(annotations: Annotations) -> Bool[np.ndarray, " images"]:
    """Which images are in a split."""
    used = np.zeros(len(annotations.labels), bool)
    used[np.concatenate([annotations.trainval, annotations.test_seen, annotations.test_unseen])] = (
        True
    )
    return used
