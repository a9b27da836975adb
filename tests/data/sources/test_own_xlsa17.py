"""Data sets of one's own in the layout of xlsa17, and names in another case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from dedn_jax.cli import main as cli
from dedn_jax.data.sources.benchmark import read_benchmark
from dedn_jax.data.sources.own_pictures import locate_pictures
from dedn_jax.errors import InputError
from tests.helpers.xlsa17 import ATT, CLASSES, FOLDERS, LABELS, WORDS, cells, write_tree


def own_tree(root: Path, name: str) -> list[Path]:
    """The tree of CUB under another name; its pictures."""
    files = write_tree(root, "CUB")
    (root / "CUB").rename(root / name)
    (root / "xlsa17" / "data" / "CUB").rename(root / "xlsa17" / "data" / name)
    (root / "w2v" / "CUB_attribute.pkl").rename(root / "w2v" / f"{name}_attribute.pkl")
    return [root / name / file.relative_to(root / "CUB") for file in files]


def test_it_is_read_as_the_benchmarks_are(tmp_path: Path) -> None:
    files = own_tree(tmp_path, "My-Birds 2")
    result = read_benchmark("My-Birds 2", tmp_path)
    assert result.name == "my_birds_2"
    assert [picture.path for picture in result.pictures] == files
    found = result.annotations
    np.testing.assert_array_equal(found.labels, LABELS - 1)
    np.testing.assert_allclose(found.class_embeddings, ATT.T.astype(np.float32))
    np.testing.assert_array_equal(found.word_vectors, WORDS.astype(np.float32))
    assert found.class_names == tuple(CLASSES)
    assert found.attribute_names == ("attribute 0", "attribute 1", "attribute 2")


def test_word_vectors_need_not_be_there(tmp_path: Path) -> None:
    own_tree(tmp_path, "MINE")
    vectors = tmp_path / "w2v" / "MINE_attribute.pkl"
    np.save(tmp_path / "w2v" / "MINE_attribute.npy", 2 * WORDS)
    vectors.unlink()
    found = read_benchmark("MINE", tmp_path).annotations
    np.testing.assert_array_equal(found.word_vectors, 2 * WORDS.astype(np.float32))
    (tmp_path / "w2v" / "MINE_attribute.npy").unlink()
    result = read_benchmark("MINE", tmp_path)
    assert result.origins[0].startswith("word vectors: by the values of the 3 dimensions")
    (tmp_path / "MINE" / "attributes.txt").write_text("1 red bill\n2 red legs\n3 long tail\n")
    result = read_benchmark("MINE", tmp_path)
    assert result.annotations.attribute_names == ("red bill", "red legs", "long tail")
    assert result.origins[0].startswith("word vectors: hashed from the names; no ")
    product = result.annotations.word_vectors @ result.annotations.word_vectors.T
    assert product[0, 1] > product[0, 2]  # both are red


def test_missing_and_doubtful_pictures(tmp_path: Path) -> None:
    files = own_tree(tmp_path, "MINE")
    files[3].unlink()
    with pytest.raises(InputError, match=r"1 of 15 pictures are missing \(CUB_200_2011/images/gr"):
        read_benchmark("MINE", tmp_path)
    path = tmp_path / "xlsa17" / "data" / "MINE" / "res101.mat"
    labels = LABELS.astype(float)[:, None]
    for text in ("../../../etc/passwd", "/data/../x.jpg"):
        names = [text, *(f"{i}.jpg" for i in range(14))]
        scipy.io.savemat(path, {"image_files": cells(names), "labels": labels})
        with pytest.raises(InputError, match=r"image_files 1 is .*, expected .* without"):
            read_benchmark("MINE", tmp_path)


@pytest.mark.parametrize(
    ("there", "stored", "found"),
    [
        ("images/ox/1.jpg", "/home/me/birds/images/ox/1.jpg", "images/ox/1.jpg"),
        ("images/ox/1.jpg", "ox/1.jpg", "images/ox/1.jpg"),  # in a folder of the folder
        ("1.jpg", "/home/me/1.jpg", "1.jpg"),
        ("ox/1.jpg", "/home/ox/ox/1.jpg", "ox/1.jpg"),
        ("a/ox/1.jpg", "/x/b/ox/1.jpg", "a/ox/1.jpg"),
    ],
)
def test_pictures_are_found_by_the_end_of_their_path(
    tmp_path: Path, there: str, stored: str, found: str
) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    assert locate_pictures([stored.strip("/")], tmp_path) == (found,)


@pytest.mark.parametrize("name", ["cub", "Cub", "mine"])
def test_case_does_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "mine":
        own_tree(tmp_path, "MINE")
    else:
        write_tree(tmp_path, "CUB")
    assert cli.main(["data", "check", name, f"--root={tmp_path}", "--splits-only"]) == 0
    assert "trainval images          8" in capsys.readouterr().out
    assert len(read_benchmark(name, tmp_path).pictures) == 15


def test_folders_in_another_case(tmp_path: Path) -> None:
    """As some archives spell it: AwA2, and everything in lower case."""
    write_tree(tmp_path, "AWA2")
    (tmp_path / "AWA2").rename(tmp_path / "awa2")
    (tmp_path / "xlsa17" / "data" / "AWA2").rename(tmp_path / "xlsa17" / "data" / "AwA2")
    result = read_benchmark("AWA2", tmp_path)
    assert result.name == "awa2"
    first = result.pictures[0].path
    assert first is not None and first.is_file()
    assert FOLDERS["AWA2"].split("/")[1] in first.parts
