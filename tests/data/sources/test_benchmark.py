"""The benchmark layouts: small made-up trees, and the real pictures where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from dedn_jax.data.sources.benchmark import read_benchmark
from dedn_jax.errors import InputError
from tests.helpers.xlsa17 import (
    ATT,
    CLASSES,
    FOLDERS,
    LABELS,
    WORDS,
    cells,
    write_apy,
    write_tree,
)


def error(root: Path, name: str = "AWA2", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_benchmark(name, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", list(FOLDERS))
def test_layouts(tmp_path: Path, name: str) -> None:
    files = write_tree(tmp_path, name)
    result = read_benchmark(name, tmp_path)
    assert result.name == name.lower()
    assert [p.path for p in result.pictures] == files
    assert [p.read() for p in result.pictures] == [f"picture {i}".encode() for i in range(15)]
    assert result.pictures[3].name == str(files[3].relative_to(tmp_path / name))
    assert not any(p.upright for p in result.pictures)
    found = result.annotations
    np.testing.assert_array_equal(found.labels, LABELS - 1)
    assert found.trainval.tolist() == [0, 1, 3, 4, 6, 7, 10, 9]
    assert found.test_unseen.tolist() == [14, 12, 13]
    assert found.class_names == tuple(CLASSES)
    assert found.attribute_names == ("attribute 0", "attribute 1", "attribute 2")
    vectors, names = result.origins
    assert vectors == f"word vectors: {tmp_path}/w2v/{name}_attribute.pkl"
    assert names.startswith("attribute names: none found, numbered instead; looked for ")
    np.testing.assert_array_equal(found.word_vectors, WORDS)
    np.testing.assert_array_equal(found.class_embeddings, ATT.T.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CUB", "CUB/CUB_200_2011/attributes/attributes.txt"),
        ("CUB", "CUB/attributes.txt"),
        ("AWA2", "AWA2/Animals_with_Attributes2/predicates.txt"),
        ("AWA1", "AWA1/Animals_with_Attributes/predicates.txt"),
        ("APY", "APY/attribute_data/attribute_names.txt"),
    ],
)
def test_attribute_names(tmp_path: Path, name: str, file: str) -> None:
    if name == "APY":
        write_apy(tmp_path)
    else:
        write_tree(tmp_path, name)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1 has_fur::yes_(or_so)\n    2\tblack\n3 longneck\n")
    names = read_benchmark(name, tmp_path).annotations.attribute_names
    assert names == ("has_fur::yes_(or_so)", "black", "longneck")
    assert read_benchmark(name, tmp_path).origins[1] == f"attribute names: {path}"
    path.write_text("1 black\n2 longneck\n")
    assert f"{path}: 2 attribute names, expected 3" in error(tmp_path, name)


def test_attribute_names_of_sun(tmp_path: Path) -> None:
    write_tree(tmp_path, "SUN")
    path = tmp_path / "SUN" / "SUNAttributeDB" / "attributes.mat"
    path.parent.mkdir()
    scipy.io.savemat(path, {"attributes": cells(["sailing", "no horizon", "rugged scene "])})
    names = read_benchmark("SUN", tmp_path).annotations.attribute_names
    assert names == ("sailing", "no horizon", "rugged scene")
    scipy.io.savemat(path, {"attributes": cells(["sailing", "sailing", "dry"])})
    assert "duplicate" in error(tmp_path, "SUN")
    scipy.io.savemat(path, {"attributes": np.ones((3, 1))})
    assert "cell array" in error(tmp_path, "SUN")


def test_word_vectors(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tree(data, "AWA2")
    beside = tmp_path / "w2v"
    (data / "w2v").rename(beside)
    given = tmp_path / "given.npy"
    np.save(given, WORDS + 1)
    found = [
        read_benchmark("AWA2", data, word_vectors=w).annotations.word_vectors for w in (None, given)
    ]
    np.testing.assert_array_equal(found, [WORDS, WORDS + 1])
    (beside / "AWA2_attribute.pkl").unlink()
    assert "dedn data wordvectors" in error(data)
    assert "no such file" in error(data, word_vectors=tmp_path / "none.npy")
    np.save(given, WORDS[:2])
    assert "shape (2, 4)" in error(data, word_vectors=given)


def test_awa1_has_the_attributes_of_awa2(tmp_path: Path) -> None:
    write_tree(tmp_path, "AWA1")
    own, other = (tmp_path / "w2v" / f"{name}_attribute.pkl" for name in ("AWA1", "AWA2"))
    own.rename(other)
    found = read_benchmark("AWA1", tmp_path)
    assert found.origins[0] == f"word vectors: {other}"
    np.testing.assert_array_equal(found.annotations.word_vectors, WORDS)
    (WORDS + 1).dump(own)
    assert read_benchmark("AWA1", tmp_path).origins[0] == f"word vectors: {own}"
    own.unlink()
    other.unlink()
    assert f"{own}: no such file, nor " in error(tmp_path, "AWA1")


def test_splits_elsewhere(tmp_path: Path) -> None:
    write_tree(tmp_path, "AWA2")
    (tmp_path / "xlsa17").rename(tmp_path / "splits")
    assert "att_splits.mat" in error(tmp_path)
    elsewhere = tmp_path / "splits" / "data"
    assert len(read_benchmark("AWA2", tmp_path, xlsa17=elsewhere).pictures) == 15
    (elsewhere / "AWA2" / "res101.mat").unlink()
    assert "res101.mat: no such file" in error(tmp_path, xlsa17=elsewhere)
    assert "CIFAR/att_splits.mat: no such file" in error(tmp_path, "CIFAR")


def test_all_missing_pictures_are_one_error(tmp_path: Path) -> None:
    files = write_tree(tmp_path, "AWA2")
    for file in files[5:9]:
        file.unlink()
    files[9].unlink()
    files[9].mkdir()  # not a picture either
    message = error(tmp_path)
    folder = "Animals_with_Attributes2/JPEGImages"
    assert message.startswith(
        f"{tmp_path / 'AWA2'}: 5 of 15 pictures are missing ({folder}/grizzly+bear/6.jpg, "
        f"{folder}/bat/7.jpg, {folder}/bat/8.jpg, ...)"
    )


def test_real_pictures(shared_data: Path) -> None:
    result = read_benchmark("CUB", shared_data / "cub40")
    found = result.annotations
    assert len(result.pictures) == 960
    assert [len(s) for s in (found.trainval, found.test_seen, found.test_unseen)] == [600, 120, 240]
    assert len(found.validation_classes) == 8
    assert found.word_vectors.shape == (312, 300)
    assert result.pictures[0].read().startswith(b"\xff\xd8")
    for i in (0, 500, 959):
        assert result.pictures[i].name.split("/")[2] == found.class_names[found.labels[i]]
