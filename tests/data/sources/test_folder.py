"""Folders of one's own classes: what is made of them, and how mistakes are named."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.sources.folder import read_folder
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.errors import InputError

ATTRIBUTES = """\
class,color::red,long legs,size
Stork,1,1,0.8
Robin,1,0,0.1
Heron,0,1,0.7
Ibis,.5,9e-1,0.5
"""
PICTURES = {"Stork": 10, "Robin": 2, "Heron": 4}


def write(root: Path, table: str = ATTRIBUTES, pictures: dict[str, int] | None = None) -> Path:
    root.mkdir(exist_ok=True)
    (root / "attributes.csv").write_text(table)
    for name, count in (PICTURES if pictures is None else pictures).items():
        folder = root / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i:02d}.jpg").write_bytes(jpeg(i))
    return root


def jpeg(value: int, orientation: int | None = None) -> bytes:
    picture = Image.new("RGB", (5, 3), (value, value, 255 - value))
    exif = picture.getexif()
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


def error(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_folder(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_without_pictures_are_unseen(tmp_path: Path) -> None:
    root = write(tmp_path / "My Birds-2")
    result = read_folder(root)
    found = result.annotations
    assert result.name == "my_birds_2"
    assert found.class_names == ("Stork", "Robin", "Heron", "Ibis")
    assert found.attribute_names == ("color::red", "long legs", "size")
    expected = np.asarray([[1, 1, 0.8], [1, 0, 0.1], [0, 1, 0.7], [0.5, 0.9, 0.5]], np.float32)
    np.testing.assert_array_equal(found.class_embeddings, expected)
    assert found.labels.tolist() == [0] * 10 + [1] * 2 + [2] * 4
    assert found.unpictured_classes.tolist() == [3]
    assert found.unseen_classes.tolist() == [3]
    assert len(found.test_unseen) == 0
    assert [int((found.labels[found.test_seen] == k).sum()) for k in range(3)] == [2, 1, 1]
    together = np.sort(np.concatenate([found.trainval, found.test_seen]))
    assert together.tolist() == list(range(16))
    assert result.pictures[0].name == "pictures/Stork/00.jpg"
    assert result.pictures[15].read() == jpeg(3)
    words = [["color", "red"], ["long", "legs"], ["size"]]
    np.testing.assert_array_equal(found.word_vectors, hashed_word_vectors(words))


def test_split_column(tmp_path: Path) -> None:
    table = "class,a,split,b\nox,0,seen,1\nbat,1,,0\nrat,2,Unseen,0\ncow,3,unseen,0\nkid,4,,1\n"
    root = write(tmp_path / "x", table, {"ox": 2, "bat": 3, "rat": 2, "kid": 0})
    found = read_folder(root).annotations
    assert found.attribute_names == ("a", "b")
    assert found.test_unseen.tolist() == [5, 6]
    assert found.unpictured_classes.tolist() == [3, 4]
    assert found.unseen_classes.tolist() == [2, 3, 4]
    assert found.seen_classes.tolist() == [0, 1]


def test_test_pictures_depend_on_seed_and_class_alone(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    other = write(tmp_path / "b", ATTRIBUTES + "Kite,3,3,3\n", {**PICTURES, "Kite": 7})

    def names(folder: Path, **options: Any) -> set[str]:
        result = read_folder(folder, **options)
        return {result.pictures[i].name for i in result.annotations.test_seen}

    assert names(root) == names(root)
    assert names(root) == {n for n in names(other) if "Kite" not in n}
    assert len({frozenset(names(root, seed=s)) for s in range(5)}) > 1
    assert len(names(root, test_share=0.5)) == 5 + 1 + 2
    assert len(names(root, test_share=0.99)) == 9 + 1 + 3  # never all
    assert len(names(root, test_share=0.001)) == 3  # at least one


def test_groups_and_word_vectors(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    groups = root / "groups.csv"
    groups.write_text("Attribute,Group\nsize,whole\nlong legs,parts\ncolor::red,whole\n")
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(root / "word_vectors.npy", vectors)
    found = read_folder(root).annotations
    assert found.groups.names == ("whole", "parts")
    assert found.groups.members == ((0, 2), (1,))
    np.testing.assert_array_equal(found.word_vectors, vectors)
    vectors.dump(root / "word_vectors.pkl")
    assert "keep one" in error(root)
    (root / "word_vectors.npy").unlink()
    np.testing.assert_array_equal(read_folder(root).annotations.word_vectors, vectors)
    vectors[:2].dump(root / "word_vectors.pkl")
    assert "word_vectors.pkl" in error(root)
    elsewhere = tmp_path / "elsewhere.npy"
    np.save(elsewhere, 2 * vectors)
    given = read_folder(root, word_vectors=elsewhere)
    np.testing.assert_array_equal(given.annotations.word_vectors, 2 * vectors)
    assert given.origins == (
        f"word vectors: {elsewhere}",
        f"attribute names: {root / 'attributes.csv'}",
        "test pictures: drawn, 0.2 of every seen class, seed 0",
    )
    (root / "word_vectors.pkl").unlink()
    assert read_folder(root).origins[0].startswith("word vectors: hashed from the names; no ")
    with pytest.raises(InputError, match=r"none\.npy: no such file"):
        read_folder(root, word_vectors=tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attribute,groups\nsize,a\n", "line 1: expected the header 'attribute,group'"),
        ("attribute,group\nsize\n", "line 2: expected an attribute and its group"),
        ("attribute,group\nsize,\n", "line 2: expected an attribute and its group"),
        ("attribute,group\nlegs,a\n", "line 2: unknown attribute 'legs'"),
        ("attribute,group\nsize,a\n\nsize,b\n", "line 4: attribute 'size' is already in a group"),
        ("attribute,group\nsize,a\nlong legs,a\n", "attribute 'color::red' has no group"),
        ("", "is empty"),
    ],
)
def test_mistakes_in_groups(tmp_path: Path, text: str, expected: str) -> None:
    root = write(tmp_path / "a")
    (root / "groups.csv").write_text(text)
    message = error(root)
    assert message.startswith(str(root / "groups.csv"))
    assert expected in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("class,", "name,", "begins with 'name', expected a header that begins with 'class'"),
        ("class,color::red,", "class;color::red;", "separate columns by commas"),
        (",size\n", ",long legs\n", "attribute 'long legs' has two columns"),
        (",size\n", ",\n", "column 4 has no name"),
        (",long legs,size\n", ",split,Split\n", "two columns 'split'"),
        ("Heron,0,", "Stork,0,", "class 'Stork' has two rows"),
        ("Heron,0,1,0.7", ",0,1,0.7", "line 4 has no class"),
        ("Heron,0,1,0.7", "Heron,0,1", "line 4 has 3 cells, the header 4"),
        ("Heron,0,1,0.7", "Heron,0,1,0.7,", "line 4 has 5 cells, the header 4"),
        ("Heron,0,1,0.7", "Heron,0,1,", "line 4, column 'size': '' is not a finite number"),
        ("Heron,0,1,0.7", 'Heron,0,1,"0,7"', "'0,7' is not a finite number; use"),
        ("Heron,0,1,0.7", "Heron,0,1,nan", "'nan' is not a finite number"),
        ("Heron,0,1,0.7", "Heron,0,1,1_0", "'1_0' is not a finite number"),
        ("Heron,0,1,0.7", "Heron,0,1,1e99", "'1e99' is not a finite number"),
        ("Heron,0,1,0.7", 'Heron,0,1,"0.7', "unexpected end of data"),
        ("Heron", "Crane", "pictures/Heron: class 'Heron' has no row in attributes.csv"),
    ],
)
def test_mistakes_in_attributes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in ATTRIBUTES
    root = write(tmp_path / "a", ATTRIBUTES.replace(old, new, 1))
    message = error(root)
    assert message.startswith(str(root))
    assert expected in message


def test_tables_that_say_nothing(tmp_path: Path) -> None:
    def message(name: str, table: str, pictures: dict[str, int] | None = None) -> str:
        return error(write(tmp_path / name, table, pictures))

    assert "no such folder" in error(tmp_path / "none")
    assert "is empty" in message("a", "")
    assert "the header is all" in message("b", "class,size\n")
    assert "has no attributes" in message("c", "class,split\nox,seen\n")
    same = "class,size,legs\nox,1,4\nbat,1,4\nrat,1,4\n"
    assert "every attribute has the same value in all classes" in message("d", same)
    assert "split of 'ox' is 'sean'" in message("e", "class,size,split\nox,1,sean\n")
    table = "class,size,split\nox,1,\nbat,2,\nrat,3,\n"
    assert "1 seen classes" in message("f", table, {"ox": 2})
    assert "no unseen class" in message("g", table, {"ox": 2, "bat": 2, "rat": 2})
    table = table.replace("rat,3,", "rat,3,seen")
    assert "pictures/rat: a seen class without pictures; add some" in message(
        "i", table, {"ox": 2, "bat": 2}
    )
    (tmp_path / "b" / "attributes.csv").write_bytes("class,größe\n".encode("latin-1"))
    assert "UTF-8" in error(tmp_path / "b")
    (tmp_path / "b" / "attributes.csv").unlink()
    assert "no such file" in error(tmp_path / "b")


def test_files_of_spreadsheets_and_file_managers(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    table = ("\ufeff" + ATTRIBUTES.replace("Stork", '"Stork"') + ",,,\n").replace("\n", "\r\n")
    (root / "attributes.csv").write_bytes(table.encode())
    for litter in (".DS_Store", "Thumbs.db", "Stork/desktop.ini", "Stork/.hidden.jpg", ".git/x"):
        path = root / "pictures" / litter
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (root / "pictures" / "Stork" / "03.jpg").rename(root / "pictures" / "Stork" / "03.JPEG")
    result = read_folder(root)
    assert len(result.pictures) == 16
    assert result.annotations.class_names[0] == "Stork"


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    name = "Küken"
    apart = unicodedata.normalize("NFD", name)
    root = write(tmp_path / "a", f"class,size\nox,1\n{name},2\nrat,3\n", {"ox": 2, apart: 2})
    result = read_folder(root)
    assert result.annotations.class_names[1] == name
    assert result.pictures[2].name == f"pictures/{name}/00.jpg"
    if not (root / "pictures" / name).exists():  # a file system that keeps both apart
        (root / "pictures" / name).mkdir()
        assert "merge the two" in error(root)


def test_an_attribute_alike_in_all_classes_is_said(tmp_path: Path) -> None:
    """As in a subset of a larger data set: 20 classes of CUB have 182 such columns of 312."""
    columns = [f"a{i}" for i in range(9)]
    zeros = ",0" * 9
    table = f"class,size,wild,{','.join(columns)}\nox,1,0{zeros}\nbat,2,1{zeros}\nrat,3,1{zeros}\n"
    found = read_folder(write(tmp_path / "a", table, {"ox": 2, "bat": 2}))
    assert found.annotations.attribute_names == ("size", "wild", *columns)
    shown = ", ".join(map(repr, columns[:8]))
    assert found.origins[-1] == (
        f"the same value in all classes, so that they tell none apart: {shown} and 1 more"
    )


def test_classes_that_nothing_tells_apart_are_said(tmp_path: Path) -> None:
    """Scores are of normalised rows: twice the attributes are the same attributes."""
    table = "class,size,wild\nox,1,0.5\nbat,2,1\nrat,3,1\ncow,1,0.5\n"
    found = read_folder(write(tmp_path / "a", table, {"ox": 2, "bat": 2}))
    assert found.origins[-1] == (
        "another class's attributes but for scale, so that nothing tells them apart: "
        "'bat like ox', 'cow like ox'"
    )


def test_a_class_with_one_picture_is_trained_on_and_not_tested(tmp_path: Path) -> None:
    result = read_folder(write(tmp_path / "a", pictures={"Stork": 1, "Robin": 2, "Heron": 1}))
    found = result.annotations
    assert found.seen_classes.tolist() == [0, 1, 2]
    assert found.labels[found.test_seen].tolist() == [1]
    assert found.labels[found.trainval].tolist() == [0, 1, 2]
    assert result.origins[-1] == (
        "trained on, not tested, for lack of test pictures: 'Stork', 'Heron'"
    )


def test_an_own_list_of_test_pictures(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    names = ["Stork/03.jpg", "./Stork/04.jpg", "pictures/Robin/00.jpg", "", "Heron\\\\01.jpg"]
    (root / "test.txt").write_text("\n".join(names).replace("\\\\", "\\"))
    result = read_folder(root)
    found = result.annotations
    assert found.test_seen.tolist() == [3, 4, 10, 13]
    assert len(found.trainval) == 12
    assert result.origins[2] == f"test pictures: {root / 'test.txt'}"

    other = tmp_path / "other.txt"
    other.write_text("Stork/00.jpg\n")
    found = read_folder(root, test_list=other).annotations
    assert found.test_seen.tolist() == [0]

    for options, flag in (({"seed": 1}, "--seed=1"), ({"test_share": 0.5}, "--test-share=0.5")):
        assert f"{flag}: {root / 'test.txt'} names the test pictures; leave" in error(
            root, **options
        )
    other.write_text("Stork/00.jpg\nStork/77.jpg\nEagle/1.jpg\n")
    assert f"{other}: line 2: 'Stork/77.jpg' and 1 more: not a picture of a class" in error(
        root, test_list=other
    )
    other.write_text("\n")
    assert "names no pictures" in error(root, test_list=other)
    other.write_text("Robin/00.jpg\nRobin/01.jpg\n")
    assert f"{other}: names all pictures of 'Robin'" in error(root, test_list=other)
    assert "none.txt: No such file" in error(root, test_list=tmp_path / "none.txt")


def test_what_lies_about_is_left_out(tmp_path: Path) -> None:
    """Files of systems, file managers, notebooks, archives and downloads, and notes on pictures."""
    root = write(tmp_path / "a")
    litter = ("__MACOSX/._00.jpg", ".ipynb_checkpoints/00-checkpoint.jpg", "@eaDir/00.jpg")
    inside = ("Stork/Thumbs.db", "Stork/._00.jpg", "Stork/.ipynb_checkpoints/00-checkpoint.jpg")
    notes = ("README.md", "Stork/LICENSE", "Stork/labels.csv", "Stork/00.jpg.part")
    for name in (*litter, *inside, *notes):
        path = root / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("some words")
    result = read_folder(root)
    assert len(result.pictures) == 16
    named = ", ".join(repr(str(root / "pictures" / name)) for name in sorted(notes))
    assert result.origins[-1] == f"left out, no pictures: {named}"


def test_every_format_that_is_decoded_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    for name in ("10.gif", "11.tif", "12.TIFF", "13.bmp", "14.png", "15.webp", "16.JPE"):
        Image.new("RGB", (5, 3)).save(root / "pictures" / "Heron" / name)
    (root / "pictures" / "Heron" / "17").write_bytes(jpeg(1))  # by its first bytes
    (root / "pictures" / "Heron" / "more" / "of 1999").mkdir(parents=True)
    (root / "pictures" / "Heron" / "more" / "of 1999" / "18.jpg").write_bytes(jpeg(2))
    result = read_folder(root)
    assert [p.name for p in result.pictures[16:]] == [
        f"pictures/Heron/{name}"
        for name in (
            *("10.gif", "11.tif", "12.TIFF", "13.bmp", "14.png", "15.webp", "16.JPE", "17"),
            "more/of 1999/18.jpg",
        )
    ]
    assert all(p.read() for p in result.pictures)
    (root / "pictures" / "Heron" / "19.heic").write_bytes(b"\0\0\0 ftypheic\0\0\0\0")
    with pytest.raises(InputError, match=r"19\.heic: not a picture .*begins as HEIC"):
        read_folder(root).pictures[-2].read()  # named, not left out


def test_links_are_followed(tmp_path: Path) -> None:
    """Subsets are made of links: of class folders, of pictures, and of folders in between."""
    root = write(tmp_path / "a", ATTRIBUTES + "Kite,3,3,3\nCrow,4,4,4\nRook,5,5,5\n")
    outside = write(tmp_path / "b", pictures={"Ibis": 3, "Kite": 4, "Crow": 2}) / "pictures"
    pictures = root / "pictures"
    (pictures / "Ibis").symlink_to(outside / "Ibis")
    (pictures / "Kite").mkdir()
    (pictures / "Kite" / "x.jpg").symlink_to("../../../b/pictures/Kite/01.jpg")
    (pictures / "Crow").mkdir()
    (pictures / "Crow" / "in").symlink_to(outside / "Crow")
    (pictures / "Crow" / "again").symlink_to(".")  # in circles
    (pictures / "Crow" / "too").symlink_to(outside / "Crow")
    names = [p.name for p in read_folder(root).pictures[16:]]
    assert names == [
        *(f"pictures/Ibis/{i:02d}.jpg" for i in range(3)),
        "pictures/Kite/x.jpg",
        *(f"pictures/Crow/in/{i:02d}.jpg" for i in range(2)),
    ]


def break_with_picture(pictures: Path) -> None:
    (pictures / "stray.jpg").touch()


def break_with_unnamed_picture(pictures: Path) -> None:
    (pictures / "stray").write_bytes(jpeg(0))


def break_with_dead_link(pictures: Path) -> None:
    (pictures / "Stork" / "link.jpg").symlink_to(pictures / "nothing.jpg")


def break_with_dead_folder(pictures: Path) -> None:
    (pictures / "Ibis").symlink_to("/mnt/disk that is not there/Ibis")


def break_with_dead_subfolder(pictures: Path) -> None:
    (pictures / "Stork" / "more").symlink_to("/mnt/disk that is not there/Stork")


def break_with_circle(pictures: Path) -> None:
    (pictures / "Stork" / "link.jpg").symlink_to(pictures / "Stork" / "link.jpg")


def break_with_shared_folder(pictures: Path) -> None:
    (pictures / "Ibis").symlink_to(pictures / "Heron")


def break_with_shared_picture(pictures: Path) -> None:
    (pictures / "Stork" / "link.jpg").symlink_to(pictures / "Robin" / "00.jpg")


def break_with_everything(pictures: Path) -> None:
    (pictures / "Ibis").symlink_to(pictures.parent)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (break_with_picture, "stray.jpg: a picture without a class"),
        (break_with_unnamed_picture, "stray: a picture without a class"),
        (break_with_dead_link, "link.jpg: a broken link: there is nothing at"),
        (break_with_dead_folder, "Ibis: a broken link: there is nothing at /mnt/disk"),
        (break_with_dead_subfolder, "more: a broken link: there is nothing at /mnt/disk"),
        (break_with_circle, "link.jpg: a broken link"),
        (break_with_shared_folder, "Ibis/00.jpg: is the same file as "),
        (break_with_shared_picture, "link.jpg: is the same file as "),
        (break_with_everything, "is the same file as "),
    ],
)
def test_what_does_not_belong(
    tmp_path: Path, change: Callable[[Path], None], expected: str
) -> None:
    root = write(tmp_path / "a")
    change(root / "pictures")
    assert expected in error(root)


def test_pictures_of_phones_are_turned(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    (root / "pictures" / "Stork" / "00.jpg").write_bytes(jpeg(0, orientation=6))
    result = read_folder(root)
    assert Image.open(io.BytesIO(result.pictures[0].read())).size == (3, 5)
    assert Image.open(io.BytesIO(result.pictures[1].read())).size == (5, 3)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("Vögel", "vogel"), ("2024", "set_2024"), ("鳥", "set"), ("a--b", "a_b")],
)
def test_name_of_the_set(tmp_path: Path, folder: str, expected: str) -> None:
    assert read_folder(write(tmp_path / folder)).name == expected


def test_options(tmp_path: Path) -> None:
    root = write(tmp_path / "a")
    assert "test share is 1" in error(root, test_share=1)
    assert "test share is 0" in error(root, test_share=0)
    assert "seed is -1" in error(root, seed=-1)
