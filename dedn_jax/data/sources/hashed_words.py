"""Word vectors hashed from the words, for attributes without trained ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

WORD_VECTOR_SIZE = 300


def hashed_word_vectors(names: Sequence[Sequence[str]]) -> np.ndarray:
    """One vector per name: the normalised sum of unit vectors, one for each of its words.

    Names that share a word have related vectors, as with real word embeddings; beyond that the
    vectors carry no meaning.

    Args:
      names: the words of each name; at least one.

    Returns:
      `[names, 300]` float32, rows of length 1; the same words give the same vector everywhere.
    """
    vectors = np.asarray(
        [np.sum([_word_vector(word) for word in words], axis=0) for words in names]
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _word_vector(word: str) -> np.ndarray:
    # A hash seeds the generator, so a word's vector does not depend on which other words exist.
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(WORD_VECTOR_SIZE)
    return vector / np.linalg.norm(vector)
