"""`dedn predict`: what it prints and writes, and its exit statuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.predictions import Predictions
from tests.helpers.picture_runs import PictureRuns
from tests.made_up import BACKBONE


@pytest.fixture
def pictures(picture_runs: PictureRuns, tmp_path: Path) -> Path:
    """Five pictures in a folder, two of them below another."""
    files = sorted(picture_runs.folder.glob("class [27]/*.jpg"))[4:9]
    (tmp_path / "new" / "more").mkdir(parents=True)
    for i, file in enumerate(files):
        shutil.copy(file, tmp_path / "new" / ("more" if i > 2 else "") / f"{i}.jpg")
    return tmp_path / "new"


def predict(runs: PictureRuns, *arguments: object) -> int:
    return main(["predict", f"--workdir={runs.small.workdir.path}", *map(str, arguments)])


def rows_of(found: Predictions) -> list[tuple[Any, ...]]:
    """Picture, rank, class, seen and score."""
    return [
        (name, rank + 1, found.class_names[k], bool(found.seen[k]), found.scores[i, rank])
        for i, name in enumerate(found.pictures)
        for rank, k in enumerate(found.classes[i])
    ]


def test_table_json_and_csv_say_the_same(
    picture_runs: PictureRuns, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = picture_runs.small.predict(pictures, top=3)
    expected = rows_of(found)
    files = tmp_path / "out.json", tmp_path / "out.csv"
    flags = ["--top=3", f"--json={files[0]}", f"--csv={files[1]}", "--batch-size=2"]
    assert predict(picture_runs, pictures, *flags) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[-3] == "" and lines[-2].startswith("Of each picture the best classes")
    lines = lines[:-3]
    assert str(found).splitlines() == lines
    assert len(lines) == 5 * (1 + 3 + 2)
    assert lines[::6] == [
        str(pictures / f) for f in ("0.jpg", "1.jpg", "2.jpg", "more/3.jpg", "more/4.jpg")
    ]
    for i, (_, rank, name, seen, score) in enumerate(expected):
        rest = lines[i // 3 * 6 + rank].split(maxsplit=1)
        assert int(rest[0]) == rank and rest[1].startswith(f"{name}  ")
        assert rest[1].split()[2:] == [
            "seen" if seen else "unseen",
            f"{100 * found.probabilities.flat[i]:.1f}",
            "%",
            f"{score:.3f}",
        ]
    strongest = found.strongest(4).fine[0]
    assert f"fine    {strongest.name} {strongest.contribution:+.2f}, " in lines[-1]

    read = json.loads(files[0].read_text())
    assert read["run"] == str(picture_runs.small.workdir.path)
    assert read["mixing"] == picture_runs.small.mixing().to_json()
    assert read["skipped"] == []
    with files[1].open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert [int(row["rank"]) for row in table] == [1, 2, 3] * 5
    for i, (picture, rank, name, seen, score) in enumerate(expected):
        one = read["pictures"][i // 3]
        ranked = one["classes"][rank - 1]
        assert (one["picture"], ranked["name"], ranked["seen"]) == (picture, name, seen)
        assert ranked["score"] == pytest.approx(score, abs=1e-5)
        row = table[i]
        assert (row["picture"], row["class"], row["seen"]) == (picture, name, str(seen))
        assert float(row["score"]) == pytest.approx(score, abs=1e-5)
        assert float(row["probability"]) == pytest.approx(ranked["probability"], abs=1e-6)


def test_standard_output_takes_json_or_csv_alone(
    picture_runs: PictureRuns, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(picture_runs, pictures / "0.jpg", "--json=-", "--top=1") == 0
    read = json.loads(capsys.readouterr().out)
    assert [len(p["classes"]) for p in read["pictures"]] == [1]
    assert predict(picture_runs, pictures / "0.jpg", "--csv=-", "--top=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "picture,rank,class,seen,score,probability" and len(lines) == 3


def test_unreadable_pictures(
    picture_runs: PictureRuns, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "1.jpg").write_bytes(b"not a picture")
    (pictures / "3\x1b[2J.png").write_bytes(b"")  # a name that would clear the screen
    out = tmp_path / "out.json"
    assert predict(picture_runs, pictures, f"--json={out}", "--batch-size=2") == 1
    printed = capsys.readouterr()
    assert printed.out.count("coarse") == 4
    errors = [line for line in printed.err.splitlines() if line.startswith("dedn: ")]
    assert errors[0].startswith(f"dedn: {pictures}/1.jpg: not a picture in a supported format")
    assert errors[1].startswith(f"dedn: {pictures}/3\\x1b[2J.png: the file is empty")
    assert errors[2:] == ["dedn: 2 of 6 pictures were skipped"]
    assert "\x1b" not in printed.out + printed.err
    read = json.loads(out.read_text())
    assert len(read["pictures"]) == 4
    assert [Path(s["picture"]).name for s in read["skipped"]] == ["1.jpg", "3\x1b[2J.png"]
    assert "not a picture in a supported format" in read["skipped"][0]["reason"]

    out.unlink()
    assert predict(picture_runs, pictures, f"--json={out}", "--strict") == 2
    assert f"dedn: {pictures}/1.jpg: not a picture" in capsys.readouterr().err
    assert not out.exists()
    assert predict(picture_runs, pictures / "1.jpg") == 1  # none is left
    assert "1 of 1 pictures were skipped" in capsys.readouterr().err


def test_new_classes_from_a_file(
    picture_runs: PictureRuns, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "classes.csv"
    assert predict(picture_runs, f"--write-classes={table}") == 0
    assert capsys.readouterr().out == f"Wrote {table}: 8 classes\n"
    # The run's own classes in place of its classes: all unseen now, gamma changes nothing.
    only = predict(picture_runs, pictures, f"--classes={table}", "--only", "--csv=-", "--top=8")
    assert only == 0
    rows = [*csv.DictReader(capsys.readouterr().out.splitlines())]
    assert len(rows) == 40 and {row["seen"] for row in rows} == {"False"}

    lines = table.read_text().splitlines()
    header, row = lines[0], lines[3].replace("class 2,", "griffin,")
    table.write_text(f"{header}\n{row}\n")
    both = predict(picture_runs, pictures, f"--classes={table}", "--csv=-", "--top=9")
    assert both == 0
    scores: dict[str, dict[str, float]] = {}
    for one in csv.DictReader(capsys.readouterr().out.splitlines()):
        scores.setdefault(one["picture"], {})[one["class"]] = float(one["score"])
    gamma = picture_runs.small.mixing().gamma
    for of_picture in scores.values():
        assert len(of_picture) == 9
        assert of_picture["griffin"] == pytest.approx(of_picture["class 2"] + gamma, abs=1e-5)
    unseen = predict(picture_runs, pictures, f"--classes={table}", "--among=unseen", "--csv=-")
    assert unseen == 0
    named = {r["class"] for r in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert named == {"class 6", "class 7", "griffin"}


def test_a_run_on_a_store_is_given_its_weights(
    picture_runs: PictureRuns, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = f"--workdir={picture_runs.store.workdir.path}"
    without = ["predict", workdir, str(pictures), "--config.backbone.weights="]
    assert main(without) == 2
    assert f"are of {BACKBONE} with SHA-256 " in capsys.readouterr().err
    with_them = [*without[:-1], f"--config.backbone.weights={picture_runs.weights}", "--csv=-"]
    assert main(with_them) == 0
    first = capsys.readouterr().out
    assert main(["predict", f"--workdir={picture_runs.images.workdir.path}", *with_them[2:]]) == 0
    for ours, theirs in zip(
        csv.DictReader(first.splitlines()),
        csv.DictReader(capsys.readouterr().out.splitlines()),
        strict=True,
    ):
        assert ours["class"] == theirs["class"]
        assert float(ours["score"]) == pytest.approx(float(theirs["score"]), abs=1e-4)
