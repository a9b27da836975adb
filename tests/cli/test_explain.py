"""`dedn explain` and `dedn localise`: what they print and write, and their exit statuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dedn_jax.cli.main import main
from tests.helpers.cub import write_cub
from tests.helpers.picture_runs import PictureRuns


def explain(runs: PictureRuns, *arguments: object) -> int:
    return main(["explain", f"--workdir={runs.small.workdir.path}", *map(str, arguments)])


def test_pages_of_pictures(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of one name, and a damaged one, which is named; the rest is written all the same."""
    pictures = [picture_runs.folder / "class 6" / "0.jpg", picture_runs.folder / "class 7/0.jpg"]
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(pictures[0].read_bytes()[:500])
    out = tmp_path / "out"
    assert explain(picture_runs, pictures[0], damaged, pictures[1], f"--out={out}", "--top=3") == 1
    printed = capsys.readouterr()
    assert "damaged.jpg: the picture is " in printed.err
    assert "dedn: 1 of 3 pictures were skipped" in printed.err
    files = {f"{stem}{end}" for stem in ("0", "0-2") for end in (".html", ".json")}
    files |= {f"{stem}-{kind}.png" for stem in ("0", "0-2") for kind in ("scores", "attention")}
    assert {p.name for p in out.iterdir()} == files
    lines = printed.out.splitlines()
    assert len(lines) == 2
    for line, picture, stem in zip(lines, pictures, ("0", "0-2"), strict=True):
        found = picture_runs.small.explain(picture)
        saved = json.loads((out / f"{stem}.json").read_text())
        assert saved["picture"] == str(picture)
        assert saved["explained"] == found.class_name
        assert saved["score"]["total"] == pytest.approx(found.score.total, rel=1e-6)
        assert len(saved["score"]["attributes"]) == 6
        expected = f"{found.class_name} {found.score.total:.3f}, see {out / stem}.html"
        assert line == f"{picture}: {expected}"
        assert (out / f"{stem}.html").read_text().count("<img ") >= 1 + 2 * 3
        with Image.open(out / f"{stem}-attention.png") as image:
            assert image.format == "PNG"


def test_named_and_new_classes(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, picture = picture_runs.small, picture_runs.folder / "class 6" / "1.jpg"
    table = tmp_path / "new.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *run.candidates.attribute_names])
        writer.writerow(["<i>griffin</i>", *range(6)])
    flags = [f"--out={tmp_path / 'out'}", f"--classes={table}"]
    names = ["--class=<i>griffin</i>", "--against=class 2"]
    assert explain(picture_runs, picture, *flags, *names) == 0
    saved = json.loads((tmp_path / "out" / "1.json").read_text())
    assert (saved["explained"], saved["against"]) == ("<i>griffin</i>", "class 2")
    assert len(saved["scores"]) == 9
    assert "<i>griffin" not in (tmp_path / "out" / "1.html").read_text()

    attributes = tmp_path / "attributes.txt"
    attributes.write_text("".join(f"{i} wing::{c}\n" for i, c in enumerate("uvwxyz", 1)))
    rest = [flags[0], f"--attributes={attributes}"]
    assert explain(picture_runs, picture, *rest) == 0
    saved = json.loads((tmp_path / "out" / "1.json").read_text())
    assert [a["name"] for a in saved["score"]["attributes"]] == [f"wing::{c}" for c in "uvwxyz"]

    assert explain(picture_runs, picture, *flags, "--only") == 0
    saved = json.loads((tmp_path / "out" / "1.json").read_text())
    assert saved["against"] is None and len(saved["scores"]) == 1


def test_nothing_is_computed_for_a_name_that_is_wrong(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = picture_runs.folder / "class 6" / "1.jpg", tmp_path / "out"
    assert explain(picture_runs, picture, f"--out={out}", "--against=clas 2") == 2
    assert "class 'clas 2': none of the 8 candidates has this name" in capsys.readouterr().err
    assert explain(picture_runs, picture, f"--out={out}", "--class=class 2", "--among=unseen") == 2
    assert "class 'class 2': none of the 2 candidates" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert explain(picture_runs, picture, f"--out={tmp_path / 'file'}") == 2
    assert "file is not a writable folder; choose another" in capsys.readouterr().err
    for top in (0, 101):
        assert explain(picture_runs, picture, f"--out={out}", f"--top={top}") == 2
        assert f"--top={top}, expected 1 to 100" in capsys.readouterr().err
    assert explain(picture_runs, tmp_path / "none.jpg", f"--out={out}") == 2
    assert "none.jpg: no such picture or folder" in capsys.readouterr().err
    assert not out.exists()


def test_localise(
    picture_runs: PictureRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the unseen classes' pictures beside the annotations, or on those that are named."""
    cub = tmp_path / "CUB_200_2011"
    for name in ("class 6", "class 7"):
        shutil.copytree(picture_runs.folder / name, cub / "images" / name)
    names = [f"{name}/{i}.jpg" for name in ("class 6", "class 7") for i in range(6)]
    points = {"beak": (20.0, 20.0), "right wing": (30.0, 30.0), "tail": (10.0, 30.0)}
    write_cub(cub, dict.fromkeys(names, points), dict.fromkeys(names, (0, 0, 40, 40)))
    attributes = tmp_path / "attributes.txt"
    families = ("has_bill_shape", "has_eye_color", "has_wing_color", "has_tail_shape", "a", "b")
    attributes.write_text("".join(f"{i} {f}::x\n" for i, f in enumerate(families, 1)))
    command = ["localise", f"--workdir={picture_runs.small.workdir.path}", f"--parts={cub}/parts"]
    output = tmp_path / "found.json"
    assert main([*command, f"--attributes={attributes}", f"--json={output}"]) == 0
    found = json.loads(output.read_text())
    assert found["pictures"] == {"head": 12, "wing": 12, "tail": 12}
    for measure in ("overlap", "inside"):
        for expert in ("coarse", "fine", "chance"):
            parts = found[measure]["parts"][expert]
            mean = (parts["head"] + parts["wing"]) / 2
            assert found[measure]["mean"][expert] == pytest.approx(mean)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:]] == ["head", "wing", "tail", "mean"]
    shares = [
        found[m]["parts"][e]["head"] for m in ("overlap", "inside") for e in found[m]["parts"]
    ]
    assert [float(cell) for cell in table[2].split()[2:]] == [round(100 * s, 1) for s in shares]

    (cub / "images" / "class 6" / "2.jpg").write_bytes(b"no picture")
    two = [f"{cub}/images/class 6/{i}.jpg" for i in (1, 2)]
    assert main([*command, *two, f"--attributes={attributes}", f"--json={output}"]) == 1
    assert json.loads(output.read_text())["pictures"]["head"] == 1
    assert "1 of 2 pictures were skipped" in capsys.readouterr().err

    assert main(command) == 2
    assert "give its attributes.txt with --attributes" in capsys.readouterr().err
    attributes.write_text("1 has_bill_shape::x\n")
    assert main([*command, f"--attributes={attributes}"]) == 2
    assert "1 attributes, but the run has 6" in capsys.readouterr().err
