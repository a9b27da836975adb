"""Attribute word vectors from a file of word vectors and the attributes' names.

The published files hold word2vec vectors averaged over the words of each name; this does the same
with GloVe (Pennington et al., 2014), word2vec or fastText, for data sets without such a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.sources.word_files import open_words
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

_STOP_WORDS = frozenset(("has", "or", "and"))  # "has_bill_shape::...", "transporting ... or ..."
_REMARK = re.compile(r"\([^)]*\)?|'s\b")
_WORD = re.compile(r"[^\W_]+")
_MIN_PART = 3  # letters of each part of a compound; below that, everything is a compound


class GloveVectors(NamedTuple):
    """Word vectors of attributes, and the words that were left out or split.

    Attributes:
      vectors: `[attributes, word_dim]` float32, not normalised.
      unknown_words: by attribute name, its words that are not in the file; left out of its mean.
      compounds: by word, the two known words that stand in for it: `longleg` -> `long`, `leg`.
    """

    vectors: np.ndarray
    unknown_words: dict[str, tuple[str, ...]]
    compounds: dict[str, tuple[str, str]]


def word_vectors_from_glove(
    glove_file: str | os.PathLike[str], attribute_names: Sequence[str]
) -> GloveVectors:
    """The mean of the vectors of each attribute name's words.

    The file is streamed once; only the vectors of the requested words are kept. An unknown word is
    tried as a compound of two known ones (AWA2 has `longleg`, `oldworld`, `strainteeth`); of
    several ways to split it, the one whose rarer word is most frequent is taken: GloVe files are
    sorted by frequency.

    Args:
      glove_file: as `open_words`. Only lower-case tokens are taken.
      attribute_names: as the data sets write them; see `attribute_words`.

    Raises:
      InputError: as `open_words`, or an attribute none of whose words is in the file.
    """
    path = local_path(glove_file)
    words = [attribute_words(name) for name in attribute_names]
    for name, parts in zip(attribute_names, words, strict=True):
        if not parts:
            raise InputError(f"{path}: attribute {name!r} has no words to look up; rename it")
    if not words:
        raise InputError(f"{path}: no attribute names to look up")
    single = {word for parts in words for word in parts}
    splits = {
        word: [(word[:i], word[i:]) for i in range(_MIN_PART, len(word) - _MIN_PART + 1)]
        for word in single
    }
    wanted = single | {part for pairs in splits.values() for pair in pairs for part in pair}
    known: dict[str, tuple[int, np.ndarray]] = {}  # rank in the file, vector
    with open_words(path) as entries:
        for entry in entries:
            try:
                word = entry.token.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if word in wanted and word not in known:
                known[word] = (entry.number, entry.vector())
                if single <= known.keys():
                    break
    if len(dims := {len(vector) for _, vector in known.values()}) > 1:
        raise InputError(f"{path}: vectors of {min(dims)} and of {max(dims)} values; expected one")
    compounds = {}
    for word in sorted(single - known.keys()):
        pairs = [p for p in splits[word] if p[0] in known and p[1] in known]
        if pairs:
            compounds[word] = min(pairs, key=lambda p: max(known[p[0]][0], known[p[1]][0]))
    return _means(path, attribute_names, words, known, compounds)


def attribute_words(name: str) -> list[str]:
    """The words of an attribute's name, in lower case.

    Split at anything that is neither letter nor digit. Dropped: remarks in parentheses, which hold
    sizes in CUB, and `has`, `or`, `and`.
    `has_bill_shape::curved_(up_or_down)` gives `bill`, `shape`, `curved`; `sailing/ boating` gives
    `sailing`, `boating`; `new+world` gives `new`, `world`.
    """
    words = _WORD.findall(_REMARK.sub(" ", name).lower())
    return [word for word in words if word not in _STOP_WORDS]


def _means(
    path: Path,
    names: Sequence[str],
    words: list[list[str]],
    known: dict[str, tuple[int, np.ndarray]],
    compounds: dict[str, tuple[str, str]],
) -> GloveVectors:
    rows, lost = [], []
    unknown: dict[str, tuple[str, ...]] = {}
    for name, parts in zip(names, words, strict=True):
        missing = tuple(w for w in parts if w not in known and w not in compounds)
        if missing:
            unknown[name] = missing
        vectors = [
            known[part][1]
            for word in parts
            if word not in missing
            for part in (compounds.get(word) or (word,))
        ]
        if vectors:
            rows.append(np.mean(vectors, axis=0, dtype=np.float64).astype(np.float32))
        else:
            lost.append(name)
    if lost:
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        raise InputError(
            f"{path}: has no word of {len(lost)} attributes: {', '.join(map(repr, lost[:10]))}"
            f"{more}; rename them or use a file of more words"
        )
    return GloveVectors(np.stack(rows), unknown, compounds)
