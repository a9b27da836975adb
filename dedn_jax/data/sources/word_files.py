"""Reads word vectors in the formats in which they are published: GloVe, word2vec, fastText.

Text: lines of `token value value ...`, separated by single spaces or tabs; tokens may hold spaces,
as some in `glove.840B.300d.txt` do. word2vec and fastText (`.vec`) put a line `words dimensions`
before. Binary (word2vec's `.bin`): that line, then for every word its bytes, a space, and
little-endian float32 values. Pickled dicts of arrays by word, read without running them. Each of
them as it is, compressed with gzip, or alone in a zip archive.

Files are untrusted and large: they are read once, word by word, and only vectors that are asked for
are parsed.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dedn_jax.data.sources.array_pickles import read_array_pickle
from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import ZIP_METHODS, what_begins_so
from dedn_jax.files import open_regular

_MAX_LINE_BYTES = 2**20
_MAX_TOKEN_BYTES = 2**16
_MAX_PICKLE_BYTES = 2**30
_MAX_DIM = 10_000
_FASTTEXT_MODEL = b"\xba\x16\x4f\x2f"
_SHOWN = 5  # names in a message
_EXPECTED = "expected word vectors of GloVe, word2vec or fastText"
# What unpacking may raise on damaged files.
_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)


class WordEntry(NamedTuple):
    """A word of a file.

    Attributes:
      number: of its line, from 1; files are sorted by frequency.
      token: the word, undecoded: some hold characters that `str.split` takes for white space.
      vector: parses its float32 `[word_dim]`, or raises InputError.
    """

    number: int
    token: bytes
    vector: Callable[[], np.ndarray]


@contextmanager
def open_words(path: Path) -> Iterator[Iterator[WordEntry]]:
    """The words of a file in its order, in one of the formats above.

    Raises:
      InputError: no such file, another format, truncated, damaged, or more than 10,000 dimensions;
        while reading as well.
    """
    if not path.is_file():
        kind = f"a folder, {_EXPECTED}" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {kind}; unpack one from https://nlp.stanford.edu/projects/glove")
    try:
        with ExitStack() as stack:
            file = _content(path, stack)
            head = file.peek(1)
            if not head:
                raise InputError(f"{path}: the file is empty, {_EXPECTED}")
            if advice := advice_on_words(head):
                raise InputError(f"{path}: {advice}")
            yield _pickled(file, path) if head.startswith(b"\x80") else _lines(file, path)
    except _ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{path}: cannot be read: {reason or one_line(error)}") from error


def advice_on_words(head: bytes) -> str:
    """What a file of vectors is that cannot be read here, and what to do; "" if nothing is known.

    Args:
      head: how it begins, or all of it.
    """
    if b"gensim" in head[:4096]:
        return (
            "saved by gensim, whose classes are not loaded here: write it with "
            "KeyedVectors.load(FILE).save_word2vec_format('words.txt')"
        )
    if head.startswith(_FASTTEXT_MODEL):
        return "a fastText model, not its vectors: download the .vec file of it"
    if head.startswith(b"\x93NUMPY"):
        return "a .npy file has vectors without words: give it as --word-vectors"
    return what_begins_so(head)


def _content(path: Path, stack: ExitStack) -> io.BufferedReader:
    """The file, unpacked where it is compressed."""
    file: Any = stack.enter_context(open_regular(path))
    start = file.peek(4)
    if start.startswith(b"\x1f\x8b"):
        file = stack.enter_context(gzip.GzipFile(fileobj=file))
    elif start.startswith(b"PK\x03\x04"):
        archive = stack.enter_context(zipfile.ZipFile(file))
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise InputError(
                f"{path}: an archive of {len(names)} files ({', '.join(names[:_SHOWN])}); unpack "
                "the one of word vectors and give it"
            )
        method = archive.getinfo(names[0]).compress_type
        if method not in ZIP_METHODS:
            raise InputError(
                f"{path}: {names[0][:64]!r} is compressed by method {method}, not deflate; unpack "
                "it and give it"
            )
        file = stack.enter_context(archive.open(names[0]))
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)


# --- text and word2vec's binary format ----------------------------------------------------------


def _lines(file: io.BufferedReader, path: Path) -> Iterator[WordEntry]:
    first = file.readline(_MAX_LINE_BYTES)
    fields = _stripped(first).split(b" ")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        dim = min(int(fields[1][:9]), _MAX_DIM + 1)
        _check_dim(dim, path)
        if not _is_text(file, dim):
            yield from _all(_binary(file, dim, path), fields[0], path)
            return
        yield from _all(_text(file, dim, 2, path), fields[0], path)
        return
    separator = b"\t" if b"\t" in first and b" " not in first.strip() else b" "
    fields = _stripped(first).split(separator)
    dim = len(fields) - 1
    _check_dim(dim, path)
    parse = partial(_parsed, separator.join(fields[1:]), separator, path, 1)
    parse()  # what is no file of vectors is refused at once
    yield WordEntry(1, fields[0], parse)
    yield from _text(file, dim, 2, path, separator)


def _all(entries: Iterator[WordEntry], promised: bytes, path: Path) -> Iterator[WordEntry]:
    """The words; at the end, whether there are as many as the header says.

    A file cut between two words shows in nothing else. One of more words than it says is whole.
    """
    count = 0
    for count, entry in enumerate(entries, 1):  # noqa: B007
        yield entry
    words = int(promised[:18])
    if count < words:
        raise InputError(
            f"{path}: ends after {count} words, its first line says {words}: it is cut short; get "
            "it again"
        )


def _stripped(line: bytes) -> bytes:
    return line.rstrip(b" \t\r\n")


def _check_dim(dim: int, path: Path) -> None:
    if not 1 <= dim <= _MAX_DIM:
        raise InputError(
            f"{path}: line 1 is not a word followed by numbers, separated by spaces; {_EXPECTED}"
        )


def _is_text(file: io.BufferedReader, dim: int) -> bool:
    """Whether the line behind the header is a word and numbers; nothing is consumed."""
    line = file.peek(1)[:_MAX_LINE_BYTES].split(b"\n")[0]
    fields = _stripped(line).split(b" ")[1:]
    if not fields:
        return False
    # A long line may reach beyond what could be looked at: its last number may be cut.
    whole = fields if len(fields) >= dim else fields[:-1]
    try:
        return bool(np.isfinite([float(field) for field in whole[:dim]]).all()) and bool(whole)
    except ValueError:
        return False


def _text(
    file: io.BufferedReader, dim: int, first: int, path: Path, separator: bytes = b" "
) -> Iterator[WordEntry]:
    number = first - 1
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        line = _stripped(line)
        count = line.count(separator)
        if count < dim:
            last = not file.peek(1)
            hint = "the file ends there: it is cut short" if last else "give each as many"
            raise InputError(
                f"{path}: line {number} has {count} numbers after its word, expected {dim}; {hint}"
            )
        # The values are split only where they are wanted: most lines are not.
        token = line.rsplit(separator, dim)[0] if count > dim else line[: line.index(separator)]
        values = line[len(token) + 1 :]
        yield WordEntry(number, token, partial(_parsed, values, separator, path, number))


def _parsed(values: bytes, separator: bytes, path: Path, number: int) -> np.ndarray:
    try:
        if b"_" in values:  # which Python, but nothing that writes vectors, takes between digits
            raise ValueError("an underscore")
        with np.errstate(over="ignore"):
            vector = np.array([float(v) for v in values.split(separator)]).astype(np.float32)
    except ValueError as error:
        raise InputError(
            f"{path}: line {number} has something other than numbers after its word; {_EXPECTED}"
        ) from error
    return _finite(vector, f"{path}: line {number}")


def _finite(vector: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(vector).all():
        raise InputError(f"{where} holds NaN or infinite values; remove it")
    return vector


def _binary(file: io.BufferedReader, dim: int, path: Path) -> Iterator[WordEntry]:
    number, size = 0, 4 * dim
    while token := _token(file, path, number + 1):
        number += 1
        values = file.read(size)
        if len(values) < size:
            raise InputError(f"{path}: ends within the vector of word {number}: it is cut short")
        vector = partial(_from_bytes, values, f"{path}: word {number}")
        yield WordEntry(number, token, vector)


def _from_bytes(values: bytes, where: str) -> np.ndarray:
    return _finite(np.frombuffer(values, "<f4").copy(), where)


def _token(file: io.BufferedReader, path: Path, number: int) -> bytes:
    """The bytes before the next space; some writers end each vector with a line feed."""
    token = b""
    while piece := file.peek(1):
        end = piece.find(b" ")
        token += file.read(len(piece) if end < 0 else end)
        if end >= 0:
            file.read(1)
            return token.lstrip(b"\n") or b" "
        if len(token) > _MAX_TOKEN_BYTES:
            raise InputError(
                f"{path}: word {number} has more than {_MAX_TOKEN_BYTES} bytes; {_EXPECTED}"
            )
    if token.strip():
        raise InputError(f"{path}: ends within word {number}: it is cut short")
    return b""


# --- pickles ------------------------------------------------------------------------------------


def _pickled(file: io.BufferedReader, path: Path) -> Iterator[WordEntry]:
    data = file.read(_MAX_PICKLE_BYTES + 1)
    if len(data) > _MAX_PICKLE_BYTES:
        raise InputError(f"{path}: a pickle of over {_MAX_PICKLE_BYTES} bytes; {_EXPECTED}")
    try:
        found = read_array_pickle(data)
    except ValueError as error:
        raise InputError(
            f"{path}: not a pickled dict of arrays by word: {error}; "
            f"{advice_on_words(data) or _EXPECTED}"
        ) from error
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: vectors without words; {_EXPECTED}, or give it as --word-vectors"
        )

    def vector(word: str) -> np.ndarray:
        try:
            array = found[word].array().reshape(-1)
        except ValueError as error:
            raise InputError(f"{path}: {word[:64]!r}: {error}; {_EXPECTED}") from error
        _check_dim(len(array), path)
        return _finite(array.astype(np.float32), f"{path}: {word[:64]!r}")

    for number, word in enumerate(found, 1):
        token = word.encode("utf-8", "surrogatepass")
        yield WordEntry(number, token, partial(vector, word))
