"""An explanation that several tests look at."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.inference.explain.decomposition import decompose
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.training.prediction import Mixing

ATTRIBUTES, CHANNELS, ROWS, COLUMNS, SIDE = 6, 5, 2, 3, 24
NAMES = ("wing::blue", "<b>bold</b>", "costs $1 & $2", "tail\nlong", 'a "quote"', "plain")
MIXING = Mixing(region_mix=0.75, expert_mix=0.5, bias=0.2)


@pytest.fixture(scope="session")
def made_up() -> Explanation:
    """Class 1 of three, an unseen one whose name is a script, against class 2."""
    rng = np.random.default_rng(0)
    attributes = rng.standard_normal((2, 2, ATTRIBUTES)).astype(np.float32)
    embeddings = rng.random((3, ATTRIBUTES))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    seen = np.array([True, False, True])
    parts = [
        decompose(attributes, z, seen=bool(s), mixing=MIXING)
        for z, s in zip(embeddings, seen, strict=True)
    ]
    regions, channels = (
        rng.dirichlet(np.ones(n), (2, ATTRIBUTES)).astype(np.float32)
        for n in (ROWS * COLUMNS, CHANNELS)
    )
    return Explanation(
        picture=rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
        class_names=("jay", "<script>alert(1)</script>", "wren"),
        seen=seen,
        scores=np.array([p.total for p in parts], np.float32),
        attribute_names=NAMES,
        mixing=MIXING,
        explained=1,
        against=2,
        score=parts[1],
        difference=parts[1] - parts[2],
        attributes=attributes,
        region_attention=regions.reshape(2, ATTRIBUTES, ROWS, COLUMNS),
        channel_attention=channels,
    )
