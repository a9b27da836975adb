"""Word vectors in the formats in circulation, and files that look like them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.data.sources.glove import word_vectors_from_glove
from dedn_jax.data.sources.word_files import open_words
from dedn_jax.errors import InputError

WORDS = ["the", "red", "wing", "größe", "bill"]
VECTORS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def text(end: bytes = b"\n", separator: bytes = b" ") -> bytes:
    return b"".join(
        separator.join([word.encode(), *(b"%.9g" % v for v in row)]) + end
        for word, row in zip(WORDS, VECTORS, strict=True)
    )


def binary(end: bytes) -> bytes:
    rows = zip(WORDS, VECTORS, strict=True)
    return b"5 7\n" + b"".join(w.encode() + b" " + v.tobytes() + end for w, v in rows)


def zipped(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"5 7\n" + text())
    return out.getvalue()


FORMATS = {
    "GloVe": text(),
    "GloVe, Windows": text(b"\r\n"),
    "tabs": text(separator=b"\t"),
    "word2vec text": b"5 7\n" + text(),
    "fastText .vec": b"5 7\n" + text(b" \n"),
    "word2vec .bin": binary(b"\n"),
    "word2vec .bin of gensim": binary(b""),
    "GloVe .gz": gzip.compress(text()),
    "word2vec .bin.gz": gzip.compress(binary(b"\n")),
    "fastText .vec.zip": zipped("wiki-news.vec"),
    **{
        f"dict, protocol {p}": pickle.dumps(dict(zip(WORDS, VECTORS, strict=True)), p)
        for p in (2, 5)
    },
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_vectors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "words"
    path.write_bytes(FORMATS[kind])
    found = word_vectors_from_glove(path, ["red wing", "Größe", "bill"]).vectors
    expected = np.stack([(VECTORS[1] + VECTORS[2]) / 2, VECTORS[3], VECTORS[4]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with open_words(path) as entries:
        assert [entry.token.decode() for entry in entries] == WORDS


def test_every_truncation_is_one_error_or_fewer_words(tmp_path: Path) -> None:
    path = tmp_path / "words"
    for data in (binary(b"\n"), gzip.compress(text()), FORMATS["dict, protocol 5"]):
        for size in range(1, len(data), 7):
            path.write_bytes(data[:size])
            with pytest.raises(InputError) as caught:
                word_vectors_from_glove(path, ["the", "bill"])
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)


class Gensim:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


def _of_gensim() -> bytes:
    return pickle.dumps(Gensim()).replace(b"system", b"gensim.models.keyedvectors\nKeyedVectors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_of_gensim(), r"saved by gensim.*save_word2vec_format"),
        (pickle.dumps(Gensim()), "not a pickled dict of arrays by word: it names posix.system"),
        (pickle.dumps({"bill": Gensim()}), "it names posix.system"),
        (pickle.dumps({"bill": [1.0]}), "it contains EMPTY_LIST"),
        (pickle.dumps({"bill": np.array(["a"])}), "'bill': its values are of type"),
        (pickle.dumps({"bill": 3}), "'bill': it is a int"),
        (pickle.dumps({1: VECTORS[0]}), "a dict whose keys are no names"),
        (pickle.dumps(VECTORS), "vectors without words"),
        (b"\xba\x16\x4f\x2f\x0c\0\0\0", "a fastText model, not its vectors: download the .vec"),
        (b"\x93NUMPY\x01\0", "vectors without words: give it as --word-vectors"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs", "git lfs pull"),
        (zipped("a.50d.txt", "a.100d.txt"), r"an archive of 2 files \(a.50d.txt, a.100d.txt\)"),
        (zipped("a.txt", method=zipfile.ZIP_BZIP2), "'a.txt' is compressed by method 12"),
        (b"5 7\n" + text()[:-30], r"line 6 has \d numbers.*the file ends there"),
        (b"the 1 2\nbill 1_0 2\n", "line 2 has something other than numbers after its word"),
        (b"bill 1_0 2\n", "line 1 has something other than numbers after its word"),
        (b"the 1 2\nred 1\nbill 1 2\n", "line 2 has 1 numbers.*give each as many"),
        (binary(b"\n")[:-20], "ends within the vector of word 5: it is cut short"),
        (b"1 2\n" + bytes(2**17), "word 1 has more than 65536 bytes"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "words"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        word_vectors_from_glove(path, ["bill"])
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"5 7\n" + text(), binary(b"\n"), binary(b"")])
def test_fewer_words_than_the_first_line_says(tmp_path: Path, content: bytes) -> None:
    """A file cut at a line's end; where all words asked for come before, nothing is lost."""
    path = tmp_path / "words"
    path.write_bytes(b"99" + content[1:])
    with pytest.raises(InputError, match="ends after 5 words, its first line says 99") as caught:
        word_vectors_from_glove(path, ["bill", "tail red"])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(word_vectors_from_glove(path, ["bill"]).vectors) == 1
    path.write_bytes(b"4" + content[1:])
    assert len(word_vectors_from_glove(path, ["tail red"]).vectors) == 1
