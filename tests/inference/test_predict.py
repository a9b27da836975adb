"""Predictions of pictures: those of the data set's images, with classes added or left out."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dedn_jax.config import load_config
from dedn_jax.data.prepared.build import build
from dedn_jax.data.sources.folder import read_folder
from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.classes_file import read_classes, write_classes
from dedn_jax.inference.picture_files import as_sources, find_pictures, read_pixels
from dedn_jax.inference.predict import predict
from dedn_jax.inference.predictions import Predictions, joined
from dedn_jax.inference.run import Run, train
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.prediction import Mixing
from tests.helpers.picture_runs import PictureRuns
from tests.made_up import picture_folder


def files_of(runs: PictureRuns) -> list[Path]:
    """In the order of the data set's images."""
    return sorted(runs.folder.glob("*/*.jpg"))


def assert_equal(found: Predictions, expected: Predictions) -> None:
    assert [found.class_names[k] for k in found.classes.flat] == [
        expected.class_names[k] for k in expected.classes.flat
    ]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    for ours, theirs in zip(found.attributes, expected.attributes, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["images", "store", "small"])
def test_predictions_are_those_of_the_run_s_scores(picture_runs: PictureRuns, name: str) -> None:
    run: Run = getattr(picture_runs, name)
    scores, mixing = run.scores, run.mixing()
    found = run.predict([files_of(picture_runs)[i] for i in scores.images], top=8)
    expected = scores.mixed(mixing)
    np.testing.assert_allclose(
        np.take_along_axis(expected, found.classes, 1), found.scores, atol=1e-5
    )
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_array_equal(np.sort(found.classes), np.tile(np.arange(8), (18, 1)))
    powers = np.exp(found.scores.astype(np.float64))
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(1, keepdims=True))
    for ours, theirs in zip(
        found.attributes, scores.attribute_scores(mixing.region_mix), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert found.names == [found.class_names[k] for k in expected.argmax(1)]


def test_gamma_is_added_to_unseen_classes_and_to_new_ones(picture_runs: PictureRuns) -> None:
    run = picture_runs.images
    candidates = run.candidates.with_new({"griffin": run.candidates.embeddings[0]})
    files = files_of(picture_runs)[:3]
    scorer = PictureScorer(run, 4)
    plain, raised = (
        joined(list(predict(scorer, files, candidates, Mixing(0.8, 0.5, bias), top=9)))
        for bias in (0.0, 3.0)
    )
    for i in range(3):
        before = dict(zip(plain.classes[i], plain.scores[i], strict=True))
        after = dict(zip(raised.classes[i], raised.scores[i], strict=True))
        assert before[8] == pytest.approx(before[0], abs=1e-6)  # the same row
        for k in range(9):
            gamma = 0 if k < 6 else 6
            assert after[k] == pytest.approx(before[k] + gamma, abs=1e-5)
    assert set(raised.classes[:, 0].tolist()) <= {6, 7, 8}


def test_the_classes_of_another_data_set_are_refused(picture_runs: PictureRuns) -> None:
    run = picture_runs.small
    other = Candidates(("a",), np.ones((1, 3), np.float32), np.array([False]), ("x", "y", "z"))
    with pytest.raises(InputError, match=r"classes of 3 attributes, but the run has \d+; take"):
        run.predict(files_of(picture_runs)[0], other)
    with pytest.raises(InputError, match="classes of 3 attributes"):
        run.explain(files_of(picture_runs)[0], classes=other)


def test_among_some_of_the_classes(picture_runs: PictureRuns) -> None:
    run, files = picture_runs.small, files_of(picture_runs)[:4]
    everything = run.predict(files, top=8)
    for among, count in (("seen", 6), ("unseen", 2)):
        found = run.predict(files, among=among, top=8)  # type: ignore[arg-type]
        assert found.scores.shape == (4, count)
        assert (found.seen == (among == "seen")).all()
        np.testing.assert_allclose(found.probabilities.sum(1), 1)
        for i in range(4):
            kept = [k for k in everything.classes[i] if everything.seen[k] == (among == "seen")]
            assert [found.class_names[k] for k in found.classes[i]] == [
                everything.class_names[k] for k in kept
            ]


def test_contributions_add_up(picture_runs: PictureRuns) -> None:
    """To what the best class's score has over the mean of all candidates', in each expert."""
    run, files = picture_runs.small, files_of(picture_runs)[:3]
    found = run.predict(files)
    scorer = run.picture_scorer
    scores = scorer.scores(np.stack([scorer.decode(f) for f in files]), run.candidates)
    for contributions, expert in zip(
        found.contributions, scores.by_expert(run.mixing().region_mix), strict=True
    ):
        best = expert[np.arange(3), found.classes[:, 0]]
        np.testing.assert_allclose(contributions.sum(1), best - expert.mean(1), atol=1e-5)
    first = found.strongest(0).coarse
    assert [a.contribution for a in first] == sorted(found.contributions.coarse[0])[::-1][:5]
    a = found.attribute_names.index(first[0].name)
    assert first[0].score == found.attributes.coarse[0, a]


# --- new classes ----------------------------------------------------------------------------------


def set_without(root: Path, name: str | None) -> Path:
    """The prepared set of `picture_folder` without a class; unseen ones have no pictures."""
    mine = picture_folder(root / "mine", pictures=3)
    for folder in ("class 6", "class 7"):
        for file in (mine / "pictures" / folder).iterdir():
            file.rename(root / f"{folder} {file.name}")
        (mine / "pictures" / folder).rmdir()
    table = mine / "attributes.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith(f"{name},")))
    return build(read_folder(mine), root / "prepared").folder


def test_a_class_added_by_its_attributes_is_as_one_from_the_start(
    picture_runs: PictureRuns, tmp_path: Path
) -> None:
    """With the same parameters: all candidates take part in training, so these would differ."""
    overrides = {
        "data.format": "prepared",
        "data.source": "images",
        "data.groups": "single",
        "picture.resize": 64,
        "picture.crop": 64,
        "backbone.name": "small",
        "backbone.trained": True,
        "train.epochs": 1,
        "train.batch_size": 8,
        "selection.protocol": "last",
    }
    with_it, without = (
        train(
            load_config("base", overrides | {"data.path": set_without(tmp_path / case, name)}),
            tmp_path / case / "run",
        )
        for case, name in (("with", None), ("without", "class 6"))
    )
    with_it.params = without.params
    row = dict(
        zip(
            with_it.candidates.attribute_names,
            with_it.candidates.embeddings[6].tolist(),
            strict=True,
        )
    )
    pictures = sorted((tmp_path / "with").glob("class 6 *.jpg"))
    expected = with_it.predict(pictures, top=8)
    assert len(pictures) == 3 and "class 6" not in without.candidates.names
    assert_equal(without.predict(pictures, {"class 6": row}, top=8), expected)
    table = tmp_path / "new.csv"
    write_classes(table, ["class 6"], with_it.candidates.embeddings[6:7], tuple(row))
    assert_equal(without.predict(pictures, table, top=8), expected)
    alone = without.candidates.with_new({"class 6": row}, only=True)
    assert without.predict(pictures, alone).class_names == ("class 6",)


def test_a_file_of_classes_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("a", 'b "quoted", with a comma', "käfer 🦉")
    attributes = ("wing, left", "beak=1", "<b>tail</b>")
    embeddings = rng.standard_normal((3, 3)).astype(np.float32) * np.float32([1e-9, 1, 1e9])
    path = tmp_path / "classes.csv"
    write_classes(path, names, embeddings, attributes)
    found = read_classes(path, attributes)
    assert tuple(found) == names
    np.testing.assert_array_equal(np.stack([*found.values()]), embeddings)
    # Columns in another order, and a byte order mark, change nothing.
    rows = list(csv.reader(io.StringIO(path.read_text())))
    turned = io.StringIO()
    csv.writer(turned).writerows([row[0], *row[:0:-1]] for row in rows)
    path.write_text("\ufeff" + turned.getvalue())
    np.testing.assert_array_equal(np.stack([*read_classes(path, attributes).values()]), embeddings)


def test_the_table_of_own_classes_describes_classes(tmp_path: Path) -> None:
    path = tmp_path / "attributes.csv"
    path.write_text("class,split,wing,beak\nroc,train,1,2\n")
    assert read_classes(path, ("beak", "wing"))["roc"].tolist() == [2, 1]
    path.write_text("name,split,wing\nroc,3,1\n")
    assert read_classes(path, ("split", "wing"))["roc"].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty, expected a header name,<attribute>"),
        ("kind,wing,beak\n", "line 1 begins with 'kind', expected .* begins with 'name'$"),
        ("name;wing;beak\n", "begins with 'name;wing;beak', .*separate columns by commas"),
        ("name,wing,beak\n", "has a header and no class"),
        ("name,wing\nroc,1\n", r"1 of 2 attributes are missing: 'beak'; add"),
        ("name,wing,beak,crest\nroc,1,1,1\n", "unknown attributes: 'crest'; remove"),
        ("name,wing,beak,wing\nroc,1,1,1\n", "names 'wing' twice"),
        ("name,wing,beak\nroc,1\n", "line 2 has 2 cells, expected 3"),
        ("name,wing,beak\n,1,1\n", "line 2: the class has no name"),
        ("name,wing,beak\nroc,1,1\n\nroc,1,2\n", "line 4: class 'roc' has a row already"),
        ("name,wing,beak\nroc,1,nan\n", "line 2, column 'beak': 'nan' is not a finite number"),
        ("name,wing,beak\nroc,inf,1\n", "line 2, column 'wing': 'inf' is not"),
        ("name,wing,beak\nroc,1e99,1\n", "line 2, column 'wing': '1e99' is not"),
        ('name,wing,beak\nroc,"1,5",1\n', "'1,5' is not a finite number; use a decimal point"),
        ("name,wing,beak\nroc,,1\n", "line 2, column 'wing': '' is not"),
        ("name,wing,beak\nroc,=1+1,1\n", "line 2, column 'wing': '=1\\+1' is not"),
        ('name,wing,beak\n"roc,1,1\n', "unexpected end of data"),
        ("name,wing,beak\nroc," + "1" * 200_000 + ",1\n", "field larger than field limit"),
    ],
)
def test_files_of_classes_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"new\.csv: .*{message}"):
        read_classes(path, ("wing", "beak"))


def test_missing_attributes_are_named_up_to_five(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("name\nroc\n")
    attributes = [f"a{i}" for i in range(312)]
    with pytest.raises(InputError, match=r"312 of 312 .*: 'a0', .*'a4' and 307 more;"):
        read_classes(path, attributes)
    with pytest.raises(InputError, match="has two attributes 'a'"):
        read_classes(path, ["a", " a"])


# --- pictures -------------------------------------------------------------------------------------


def test_any_batch_size_gives_the_same(picture_runs: PictureRuns) -> None:
    run, files = picture_runs.small, [str(f) for f in files_of(picture_runs)[:7]]
    for size in (1, 3, 7, 64):
        scorer = PictureScorer(run, size)
        parts = list(predict(scorer, files, run.candidates, run.mixing(), top=3))
        assert [len(part) for part in parts] == [size] * (7 // size) + [7 % size] * (7 % size > 0)
        assert joined(parts).pictures == tuple(files)
        assert_equal(joined(parts), run.predict(files, top=3))


def test_unreadable_pictures_are_skipped_in_their_place(
    picture_runs: PictureRuns, tmp_path: Path
) -> None:
    run, good = picture_runs.small, files_of(picture_runs)[:3]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(good[0].read_bytes()[:300])
    files = [str(p) for p in (bad, good[0], tmp_path / "none.jpg", good[1], good[2], bad)]
    skipped: list[str] = []
    parts = predict(
        PictureScorer(run, 2),
        files,
        run.candidates,
        run.mixing(),
        top=1,
        skip=lambda name, error: skipped.append(f"{name}: {type(error).__name__}"),
    )
    found = joined(list(parts))
    assert found.pictures == tuple(map(str, good))
    assert_equal(found, run.predict(good, top=1))
    assert skipped == [f"{bad}: PictureError", f"{files[2]}: InputError", f"{bad}: PictureError"]
    with pytest.raises(InputError, match=r"bad.jpg: the picture is truncated"):
        run.predict([*good, bad])


def test_sources(picture_runs: PictureRuns) -> None:
    run, path = picture_runs.small, files_of(picture_runs)[0]
    expected = run.predict(path)
    assert expected.pictures == (str(path),)
    pixels = run.dataset.inputs[np.array([0])]
    data, picture = path.read_bytes(), Image.open(path)
    several = [path], [picture], np.array([str(path)]), jnp.asarray(pixels), (p for p in [path])
    for source in (str(path), data, memoryview(data), picture, pixels[0], pixels, *several):
        found = run.predict(source)  # type: ignore[arg-type]
        assert_equal(found, expected)
    assert run.predict(path.read_bytes()).pictures == ("picture 0",)
    assert len(run.predict(picture_runs.folder)) == 48
    with pytest.raises(InputError, match="no pictures, expected at least one"):
        run.predict([])
    for top, expected_top in ((0, "at least 1"), ("3", "a whole number"), (2.0, "a whole number")):
        with pytest.raises(InputError, match=f"^top={top!r}, expected {expected_top}"):
            run.predict(path, top=top)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [b"", None],
            "picture 1 of type NoneType, expected a path, the content of a file as byte",
        ),
        (7, "picture 0 of type int, expected a path"),
        (io.BytesIO(b"a\nb"), "picture 0 of type BytesIO, expected a path"),
        ([io.StringIO("a")], "picture 0 of type StringIO, expected a path"),
        ("", "an empty path; give the name"),
    ],
)
def test_what_is_no_picture(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        as_sources(images)
    with pytest.raises(InputError, match=r"a picture of shape \(4, 5\) and type uint8"):
        read_pixels(as_sources(np.zeros((4, 5), np.uint8))[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(1, 8, 4\) and type float32, .*; feature maps go into"):
        read_pixels(as_sources(np.zeros((1, 8, 4), np.float32))[0])  # type: ignore[arg-type]


def test_folders_are_searched_in_order_and_links_are_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for name in ("b/2.PNG", "b/1.jpeg", "a.jpg", "c/deep/3.webp", "notes.txt", ".hidden/x.jpg"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).touch()
    outside.mkdir()
    (outside / "1.jpg").touch()
    (outside / "2.jpg").touch()
    (inside / ".x.jpg").touch()
    (inside / "link.jpg").symlink_to(outside / "1.jpg")
    (inside / "folder").symlink_to(outside)
    (inside / "folder" / "circle").symlink_to(inside)
    names = ["a.jpg", "link.jpg", "b/1.jpeg", "b/2.PNG", "c/deep/3.webp", "folder/2.jpg"]
    assert find_pictures([inside]) == [str(inside / name) for name in names]
    link = inside / "link.jpg"
    assert find_pictures([link, inside / "b"]) == [
        str(p) for p in (link, inside / "b/1.jpeg", inside / "b/2.PNG")
    ]
    with pytest.raises(InputError, match="none: no such picture or folder"):
        find_pictures([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no pictures in it, expected .*\.jpg"):
        find_pictures([tmp_path / "empty"])


def test_to_json(picture_runs: PictureRuns) -> None:
    run, files = picture_runs.small, files_of(picture_runs)[:2]
    found = run.predict(files, top=2)
    pictures = found.to_json()["pictures"]
    assert [p["picture"] for p in pictures] == [str(f) for f in files]
    first = pictures[0]["classes"][0]
    k = found.classes[0, 0]
    assert first == {
        "name": found.class_names[k],
        "seen": bool(found.seen[k]),
        "score": float(found.scores[0, 0]),
        "probability": float(found.probabilities[0, 0]),
    }
    assert list(pictures[0]["attributes"]) == ["coarse", "fine"]
    assert pictures[1]["attributes"]["fine"][0] == found.strongest(1).fine[0]._asdict()
    assert dataclasses.asdict(found)["pictures"] == found.pictures
