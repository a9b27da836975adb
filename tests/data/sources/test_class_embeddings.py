"""Class embeddings of sentences: read from their files, and as FLO's only ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from dedn_jax.data.sources import class_embeddings
from dedn_jax.data.sources.benchmark import read_benchmark
from dedn_jax.data.sources.class_embeddings import (
    annotations_from_file,
    dimension_vectors,
    read_class_embeddings,
)
from dedn_jax.data.sources.counts import counts_table
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.errors import InputError
from dedn_jax.model.groups import resolve_groups
from tests.helpers.xlsa17 import CLASSES, SENTENCES, cells, write_flo, write_sentences, write_tree

NAMES = tuple(CLASSES)


def error(path: Path, names: tuple[str, ...] = NAMES) -> str:
    with pytest.raises(InputError) as caught:
        read_class_embeddings(path, names)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_both_kinds_of_file(tmp_path: Path) -> None:
    mat = write_sentences(tmp_path / "sent_splits.mat")
    np.save(tmp_path / "sentences.npy", SENTENCES.T)
    for path in (mat, tmp_path / "sentences.npy"):
        found = read_class_embeddings(path, NAMES)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, SENTENCES.T.astype(np.float32))
    write_sentences(mat, allclasses_names=None)
    assert read_class_embeddings(mat, NAMES).shape == (5, 7)


def test_names_that_are_spelt_in_another_way(tmp_path: Path) -> None:
    path = write_sentences(tmp_path / "sent_splits.mat")
    numbered = tuple(f"class {k + 1}" for k in range(5))
    assert read_class_embeddings(path, numbered).shape == (5, 7)
    assert read_class_embeddings(path, ("ox", "bear", "bat", "cow", "rat")).shape == (5, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"att": None}, "att is missing; the file holds allclasses_names, trainval_loc"),
        ({"att": CLASSES}, "att holds strings, expected numbers [dimensions, classes]"),
        ({"att": SENTENCES[:, :4]}, "allclasses_names has 5 names, att has 4 classes"),
        (
            {"att": SENTENCES[:, :4], "allclasses_names": CLASSES[:4]},
            "embeddings of 4 classes, 7 dimensions each, but the data set has 5 classes; is it of",
        ),
        (
            {"att": SENTENCES.T, "allclasses_names": None},
            "embeddings of 7 classes, 5 dimensions each, but the data set has 5 classes; it looks",
        ),
        (
            {"allclasses_names": ["grizzly+bear", "ox", *CLASSES[2:]]},
            "class 1 is 'grizzly+bear', which is class 2 of the data set; embeddings must be in",
        ),
        ({"att": np.where(SENTENCES < 0, np.nan, SENTENCES)}, "att holds NaN or infinite values"),
        ({"att": np.zeros((2, 2, 5))}, "att has shape (2, 2, 5)"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    stored = {k: cells(v) if isinstance(v, list) else v for k, v in changes.items()}
    assert message in error(write_sentences(tmp_path / "sent_splits.mat", **stored))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file of class embeddings" in error(tmp_path / "none.mat")
    assert "no such file of class embeddings" in error(tmp_path / "none.npy")
    assert "unknown kind of file" in error(tmp_path / "sentences.csv")
    path = tmp_path / "sentences.npy"
    path.write_bytes(b"MATLAB")
    assert "no class embeddings as .npy" in error(path)
    np.save(path, np.array([[{}]]), allow_pickle=True)
    assert "an array of Python objects, expected numbers" in error(path)
    np.save(path, np.array(["ox"]))
    assert "expected numbers [classes, dimensions]" in error(path)
    np.save(path, SENTENCES)
    assert "embeddings of 7 classes, 5 dimensions each" in error(path)
    assert error(path).endswith("it looks transposed")
    np.save(path, SENTENCES[:6, :4])
    assert error(path).endswith("is it of another data set?")
    monkeypatch.setattr(class_embeddings, "_MAX_BYTES", 100)
    assert "over 0 MiB" in error(path)
    mat = write_sentences(tmp_path / "sent_splits.mat")
    mat.write_bytes(mat.read_bytes()[:300])
    assert "truncated" in error(mat)


def test_vectors_of_dimensions() -> None:
    """Against the sum written out; dimensions that vary alike point the same way."""
    values = np.random.default_rng(1).normal(size=(5, 6))
    values[:, 4] = 3 * values[:, 1] + 7
    values[:, 5] = 2.5
    found = dimension_vectors(values, NAMES)
    assert found.shape == (6, 300)
    assert found.dtype == np.float32
    for d in range(6):
        terms = [
            (values[k, d] - values[:, d].mean()) * hashed_word_vectors([[name]])[0]
            for k, name in enumerate(NAMES)
        ]
        np.testing.assert_allclose(found[d], np.sum(terms, axis=0), atol=1e-6)
    np.testing.assert_allclose(found[4], 3 * found[1], atol=1e-5)
    np.testing.assert_allclose(found[5], 0, atol=1e-6)  # what is the same everywhere says nothing
    # Products of vectors are those of the values, up to what random directions add.
    centred = values - values.mean(axis=0)
    np.testing.assert_allclose(found @ found.T, centred.T @ centred, atol=1.5)
    order = [3, 0, 4, 1, 2]
    again = dimension_vectors(values[order], tuple(NAMES[k] for k in order))
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_dimensions_that_vary_alike_form_groups() -> None:
    rng = np.random.default_rng(2)
    profiles = rng.normal(size=(20, 3))
    members = np.arange(12) % 3
    values = profiles[:, members] + 0.05 * rng.normal(size=(20, 12))
    vectors = dimension_vectors(values, tuple(f"class {k}" for k in range(20)))
    groups = resolve_groups("clusters:3", vectors)
    assert groups.members == tuple(tuple(range(g, 12, 3)) for g in range(3))
    assert resolve_groups("single", vectors).members == (tuple(range(12)),)


def test_fields_of_annotations(tmp_path: Path) -> None:
    path = write_sentences(tmp_path / "sent_splits.mat")
    found = annotations_from_file(path, NAMES)
    np.testing.assert_array_equal(found["class_embeddings"], SENTENCES.T.astype(np.float32))
    np.testing.assert_array_equal(
        found["word_vectors"], dimension_vectors(found["class_embeddings"], NAMES)
    )
    assert found["attribute_names"][:2] == ("dimension 0", "dimension 1")
    assert found["groups"] is None
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.arange(14.0).reshape(7, 2))
    found = annotations_from_file(path, NAMES, vectors)
    np.testing.assert_array_equal(found["word_vectors"], np.arange(14).reshape(7, 2))
    np.save(vectors, np.arange(10.0).reshape(5, 2))
    with pytest.raises(InputError, match=r"shape \(5, 2\), expected \[7, word_dim\]"):
        annotations_from_file(path, NAMES, vectors)


def test_flo(tmp_path: Path) -> None:
    files = write_flo(tmp_path)
    result = read_benchmark("FLO", tmp_path)
    assert result.name == "flo"
    assert [p.path for p in result.pictures] == files
    assert result.pictures[6].name == "jpg/image_00007.jpg"
    found = result.annotations
    assert found.class_names == tuple(f"class {k}" for k in range(1, 6))
    assert found.attribute_names == tuple(f"dimension {d}" for d in range(7))
    np.testing.assert_array_equal(found.class_embeddings, SENTENCES.T.astype(np.float32))
    np.testing.assert_array_equal(
        found.word_vectors, dimension_vectors(found.class_embeddings, found.class_names)
    )
    assert result.origins == (
        "word vectors: by the values of the 7 dimensions, which have no names",
    )
    table = [line.split() for line in counts_table(found, "FLO").splitlines()]
    assert table[1] == ["trainval", "images", "8", "published", "5631"]
    assert table[5] == ["attributes", "7", "published", "1024"]
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.arange(14.0).reshape(7, 2))
    result = read_benchmark("FLO", tmp_path, word_vectors=vectors)
    assert result.origins == (f"word vectors: {vectors}",)
    np.testing.assert_array_equal(result.annotations.word_vectors, np.arange(14).reshape(7, 2))
    assert result.annotations.attribute_names[6] == "dimension 6"


def test_only_att_and_names_of_a_sentence_file_are_read(tmp_path: Path) -> None:
    """Its splits may be of another version; what else it holds is not looked at."""
    write_tree(tmp_path, "CUB")
    path = tmp_path / "xlsa17" / "data" / "CUB" / "sent_splits.mat"
    scipy.io.savemat(path, {"att": SENTENCES, "trainval_loc": np.zeros((3, 1)), "x": {"y": 1}})
    assert read_class_embeddings(path, NAMES).shape == (5, 7)
