"""Attribute word vectors from a GloVe text file and the attributes' names.

The published files hold word2vec vectors averaged over the words of each name; this does the same
with GloVe (Pennington et al., 2014), for data sets without such a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

_MAX_LINE_BYTES = 2**20
_MAX_DIM = 10_000
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
      glove_file: lines of `token value value ...`, separated by single spaces, as in
        `glove.6B.300d.txt`; tokens may hold spaces, as some in `glove.840B.300d.txt` do. A first
        line of two numbers (word2vec's text format) is skipped. Only lower-case tokens are taken.
      attribute_names: as the data sets write them; see `attribute_words`.

    Raises:
      InputError: no such file, a line that is not a token and `word_dim` numbers, an attribute
        none of whose words is in the file.
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
    for number, token, values in _lines(path):
        try:
            word = token.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if word in wanted and word not in known:
            known[word] = (number, _vector(values, path, number))
            if single <= known.keys():
                break
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
            f"{more}; rename them or use a larger GloVe file"
        )
    return GloveVectors(np.stack(rows), unknown, compounds)


def _lines(path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Line number (from 1), token and values (not yet parsed) of each line.

    Bytes, not text: tokens of glove.840B hold characters that `str.split` takes for white space.
    """
    if not path.is_file():
        kind = "a folder, expected a GloVe text file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {kind}; unpack one from https://nlp.stanford.edu/projects/glove")
    dim = 0
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                if number == 1:
                    dim, is_header = _word_dim(line, path)
                    if is_header:
                        continue
                line = line.rstrip(b" \r\n")
                spaces = line.count(b" ")
                if spaces < dim:
                    raise InputError(
                        f"{path}: line {number} has {spaces} numbers after its word, expected "
                        f"{dim}; the file may be truncated: download it again"
                    )
                # The values are split only where they are wanted: most lines are not.
                token = line.rsplit(b" ", dim)[0] if spaces > dim else line[: line.index(b" ")]
                yield number, token, line[len(token) + 1 :]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not dim:
        raise InputError(f"{path}: the file is empty, expected GloVe vectors")


def _word_dim(line: bytes, path: Path) -> tuple[int, bool]:
    """How many values each line has, and whether this first line is a header that says so."""
    if line.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise InputError(f"{path}: a compressed file; unpack it first")
    fields = line.rstrip(b" \r\n").split(b" ")
    header = len(fields) == 2 and all(f.isdigit() for f in fields)
    dim = min(int(fields[1][:9]), _MAX_DIM + 1) if header else len(fields) - 1
    if not 1 <= dim <= _MAX_DIM:
        raise InputError(
            f"{path}: line 1 is not a word followed by numbers, separated by spaces; expected a "
            "GloVe text file"
        )
    if not header:
        _vector(b" ".join(fields[1:]), path, 1)
    return dim, header


def _vector(values: bytes, path: Path, number: int) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(v) for v in values.split(b" ")]).astype(np.float32)
    except ValueError as error:
        raise InputError(
            f"{path}: line {number} has something other than numbers after its word; expected a "
            "GloVe text file"
        ) from error
    if not np.isfinite(vector).all():
        raise InputError(f"{path}: line {number} holds NaN or infinite values; remove it")
    return vector
