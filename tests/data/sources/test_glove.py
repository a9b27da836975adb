"""Attribute vectors from GloVe text files."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.data.sources.glove import attribute_words, word_vectors_from_glove
from dedn_jax.errors import InputError

WORDS = {
    "bill": (1, 0, 0),
    "shape": (0, 1, 0),
    "curved": (0, 0, 4),
    "long": (2, 0, 0),
    "leg": (0, 2, 0),
    "lon": (9, 9, 9),
    "gleg": (9, 9, 9),
}


def write(tmp_path, lines, end="\n"):
    path = tmp_path / "glove.txt"
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def lines(words=None):
    return [" ".join((word, *map(str, v))) for word, v in (words or WORDS).items()]


def error(path, names=("bill",)):
    with pytest.raises(InputError) as caught:
        word_vectors_from_glove(path, names)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("has_bill_shape::curved_(up_or_down)", "bill shape curved"),
        ("has_bill_shape::all-purpose", "bill shape all purpose"),
        ("has_size::medium_(9_-_16_in)", "size medium"),
        ("has_size::medium_(9_-_16", "size medium"),
        ("sailing/ boating", "sailing boating"),
        ("no horizon", "no horizon"),
        ("transporting things or people", "transporting things people"),
        ("new+world", "new world"),
        ("Bird's Eye", "bird eye"),
        ("größe2", "größe2"),
        ("has_(x)", ""),
    ],
)
def test_attribute_words(name, words):
    assert attribute_words(name) == words.split()


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
@pytest.mark.parametrize("header", [[], ["7 3"]])
def test_means(tmp_path, header, end):
    path = write(tmp_path, header + lines(), end)
    result = word_vectors_from_glove(path, ["has_bill_shape::curved_(up)", "Bill", "unheard bill"])
    assert result.vectors.dtype == np.float32
    np.testing.assert_allclose(
        result.vectors, [[1 / 3, 1 / 3, 4 / 3], [1, 0, 0], [1, 0, 0]], rtol=1e-6
    )
    assert result.unknown_words == {"unheard bill": ("unheard",)}
    assert result.compounds == {}


def test_compounds_prefer_frequent_words(tmp_path):
    result = word_vectors_from_glove(write(tmp_path, lines()), ["longleg"])
    assert result.compounds == {"longleg": ("long", "leg")}
    np.testing.assert_array_equal(result.vectors, [[1, 1, 0]])
    known = write(tmp_path, [*lines(), "longleg 5 5 5"])
    result = word_vectors_from_glove(known, ["longleg"])
    np.testing.assert_array_equal(result.vectors, [[5, 5, 5]])
    assert result.compounds == {}


def test_tokens_of_glove_840b(tmp_path):
    strange = [
        ". . . 1 2 3",
        "at name@domain.com 1 2 3",
        "a\u00a0b 1 2 3",
        "\u0085 1 2 3",
        " 1 2 3",
    ]
    path = write(tmp_path, [*lines(), *strange, "hat 4 5 6", "hat 7 8 9"])
    with path.open("ab") as file:
        file.write(b"\xff\xfe 1 2 3\ntail -1e-2 0.5 7")  # not UTF-8; no newline at the end
    result = word_vectors_from_glove(path, ["hat", "tail"])
    np.testing.assert_allclose(result.vectors, [[4, 5, 6], [-0.01, 0.5, 7]], rtol=1e-6)


def test_stops_when_it_has_all_words(tmp_path):
    path = write(tmp_path, [*lines(), "broken 1"])
    assert word_vectors_from_glove(path, ["leg"]).vectors.shape == (1, 3)
    assert "line 8 has 1 numbers after its word, expected 3" in error(path, ["leg", "zzz"])


def test_unknown_attributes_are_named(tmp_path):
    message = error(write(tmp_path, lines()), ["bill", "zzz", "has_qqq"])
    assert "has no word of 2 attributes: 'zzz', 'has_qqq'; rename them" in message
    assert "attribute 'has' has no words" in error(write(tmp_path, lines()), ["bill", "has"])
    assert "no attribute names" in error(write(tmp_path, lines()), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"bill\n", "line 1 is not a word followed by numbers"),
        (b"bill a b\n", "line 1 has something other than numbers"),
        (b"\x80\x04\x95 numpy\n", "not a pickled dict of arrays by word"),
        (b"PK\x03\x04...", "cannot be read: File is not a zip file"),
        (b"\x1f\x8b...", "cannot be read: Compressed file ended"),
        (b"7 99999999999999999999\nbill 1\n", "line 1 is not a word"),
        (b"x 1 2\nbill 1 nan\n", "line 2 holds NaN or infinite"),
        (b"x 1 2\nbill 1 1e39\n", "line 2 holds NaN or infinite"),
        (b"x 1 2\nbill 1 two\n", "line 2 has something other than numbers"),
        (b"x 1 2\n\nbill 1 2\n", "line 2 has 0 numbers"),
        (b"x " + b"1" * 2**21, "line 1 holds NaN or infinite"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "glove.txt"
    path.write_bytes(content)
    assert message in error(path, ["bill"])


def test_missing_file(tmp_path):
    assert "no such file" in error(tmp_path / "none.txt")
    assert "a folder" in error(tmp_path)
