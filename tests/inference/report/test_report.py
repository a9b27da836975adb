"""Reports: their numbers against the scores, their text shown as text, nothing from elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.inference.report.facts import dataset_name
from dedn_jax.inference.report.sweep_page import rows_note, sweep_rows
from dedn_jax.inference.report.tables import table_tex, tex
from dedn_jax.inference.report.write import write_report, write_reports, write_sweep_report
from dedn_jax.inference.run import Run, open_run, train
from dedn_jax.sweep.report import summary
from dedn_jax.sweep.run import run_sweep
from dedn_jax.training.protocol import result_text
from tests.helpers.tiny import tiny_config, write_tiny
from tests.inference.report.conftest import HOSTILE


class Page(HTMLParser):
    """Text, tags and addresses of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.unnamed: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if (tag == "img" and not given.get("alt")) or (
            tag == "svg" and not given.get("aria-label")
        ):
            self.unnamed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_page(page: Path) -> Page:
    """It needs nothing else and runs no script of a name."""
    content = page.read_text()
    found = Page(content)
    assert not [a for a in found.addresses if not a.startswith(("data:image/jpeg;base64,", "#"))]
    assert not re.search(r"url\((?!#)|@import", content)
    assert found.tags.count("script") == 1
    assert not found.unnamed
    assert 'name="viewport"' in content
    assert '<html lang="en">' in content
    return found


def test_numbers_are_those_of_the_scores(runs: list[Run], tmp_path: Path) -> None:
    run = runs[0]
    page = write_report(run, tmp_path)
    report = read_json(tmp_path / "report.json")["runs"][0]
    assert report["test"] == run.result["test"]
    speed = r" steps a second; \d+% of the time since the first of \d+ starts? went into steps\."
    assert re.search(speed, page.read_text())
    assert report["test_calibrated"] == run.result["test_calibrated"]
    assert report["chance"] == pytest.approx(100 / 8)
    scores, mixing = run.scores, run.mixing()
    chosen = scores.mixed(mixing).argmax(1)
    accuracy = {k: 100 * np.mean(chosen[scores.labels == k] == k) for k in range(8)}
    names = run.dataset.class_names
    found = {c["name"]: c for c in report["per_class"]}
    assert {name: found[name]["calibrated"] for name in names} == pytest.approx(
        {names[k]: a for k, a in accuracy.items()}
    )
    for kind, metric in ((True, "S"), (False, "U")):
        of_kind = [c for c in report["per_class"] if c["seen"] == kind]
        for way, result in (("calibrated", "test_calibrated"), ("fixed", "test")):
            mean = np.mean([c[way] for c in of_kind])
            assert mean == pytest.approx(report[result]["fused"][metric])
        for expert in ("coarse", "fine"):  # each by its own calibration
            mean = np.mean([c[expert] for c in of_kind])
            assert mean == pytest.approx(report["test_calibrated"][expert][metric])
    wrong = sum(c["images"] for c in report["confusions"])
    assert wrong == np.sum(chosen != scores.labels)
    for kind, images in (("seen", 24), ("unseen", 24)):
        assert sum(report["experts"][kind].values()) == images
    assert report["curves"]["fixed"]["AUSUC"] == pytest.approx(
        report["test"]["fused"]["AUSUC"], abs=1e-6
    )
    # Each attribute against by-hand ranks: images of classes above the mean.
    z = run.dataset.class_embeddings
    assert run.calibration is not None
    p = scores.attribute_scores(run.calibration.mixing["fine"].region_mix).fine
    for a in report["attributes"]:
        column = run.dataset.attribute_names.index(a["name"])
        has = (z[:, column] > z[:, column].mean())[scores.labels]
        pairs = p[has, column][:, None] > p[~has, column][None]
        assert a["fine"]["auc"] == pytest.approx(pairs.mean())
    table = {row["class"].lstrip("'"): row for row in rows(tmp_path / "classes.csv")}
    assert float(table["six"]["accuracy_calibrated"]) == pytest.approx(accuracy[6], abs=1e-4)
    assert len(rows(tmp_path / "attributes.csv")) == 6
    text = "".join(check_page(page).text)
    assert f"{report['test_calibrated']['fused']['H']:.1f}" in text
    assert "chosen by H on validation classes" in text
    assert "each expert alone, with a calibration of its own" in text
    assert "which of the experts alone is right; each calibrated on its own." in text


def test_names_are_text_everywhere(runs: list[Run], tmp_path: Path) -> None:
    page = check_page(write_report(runs[0], tmp_path))
    text = "".join(page.text)
    for name in HOSTILE:
        assert name in text
    names = [row["class"] for row in rows(tmp_path / "classes.csv")]
    assert "'=cmd()" in names and "=cmd()" not in names
    assert [row["attribute"] for row in rows(tmp_path / "attributes.csv")][2] == "'=cmd()"
    latex = (tmp_path / "table.tex").read_text()
    assert "validation, calibrated &" in latex
    assert tex("a $x_1$ & b\n50%") == r"a \$x\_1\$ \& b 50\%"


@pytest.mark.parametrize("number", [1, 2])
def test_without_a_calibration(number: int, runs: list[Run], tmp_path: Path) -> None:
    """What was picked by the test sets says so."""
    run = runs[number]
    text = "".join(check_page(write_report(run, tmp_path)).text)
    report = read_json(tmp_path / "report.json")["runs"][0]
    assert list(report["curves"]) == ["fixed"]
    assert "own" not in text.partition("Where the experts disagree")[2].partition("Attributes")[0]
    assert {c["calibrated"] for c in report["per_class"]} == {None}
    by_test = number == 2
    assert ("not a fair estimate" in text) == by_test
    assert ("H (test-best)" in text) == by_test
    assert ("(test-best)" in (tmp_path / "table.tex").read_text()) == by_test


@pytest.mark.parametrize(
    ("expert", "other"),
    [("coarse", "fine"), pytest.param("fine", "coarse", marks=pytest.mark.slow)],
)
def test_one_expert_and_one_branch(
    expert: str, other: str, dataset: GZSLDataset, tmp_path: Path
) -> None:
    """No number of what the model has not."""
    config = tiny_config(Path("nowhere"), model__experts=expert, model__branches="region")
    run = train(config, tmp_path / "run", dataset=dataset)
    page = write_report(run, tmp_path / "out")
    text = "".join(check_page(page).text)
    assert other not in text.partition("To repeat it")[0]
    assert "expert_mix" not in text.partition("To repeat it")[0]
    assert "region_mix" not in text.partition("To repeat it")[0]
    assert "experts disagree" not in text
    assert "of each expert alone" not in text
    report = read_json(tmp_path / "out" / "report.json")["runs"][0]
    assert all(c[other] is None and c[expert] is not None for c in report["per_class"])
    assert all(a[other] == {"average_precision": None, "auc": None} for a in report["attributes"])
    assert report["experts"] == {}
    classes = rows(tmp_path / "out" / "classes.csv")
    assert {c[f"accuracy_{other}"] for c in classes} == {""}
    assert all(c[f"accuracy_{expert}"] for c in classes)


def test_several_runs_side_by_side(runs: list[Run], tmp_path: Path) -> None:
    page = check_page(write_reports(runs, tmp_path))
    text = "".join(page.text)
    assert "All runs have the same classes" in text
    latex = (tmp_path / "table.tex").read_text()
    for run in runs:
        name = run.workdir.path.name
        assert f"{run.result['test']['fused']['T1']:.1f}" in latex
        assert name in text
    assert len(read_json(tmp_path / "report.json")["runs"]) == 3
    assert len(rows(tmp_path / "classes.csv")) == 3 * 8
    with pytest.raises(InputError, match="the same run is given twice"):
        write_reports([runs[0], runs[0]], tmp_path)


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend(
    runs: list[Run], dataset: GZSLDataset, tmp_path: Path
) -> None:
    shutil.copytree(runs[0].workdir.path, tmp_path / "_mine")
    mine = open_run(tmp_path / "_mine", dataset=dataset)
    page = write_reports([mine, runs[1]], tmp_path / "out").read_text()
    assert "_mine: AUSUC" in page and "_mine, calibrated: H" in page


@pytest.mark.slow
def test_a_demo_run_has_pictures(demo_run: Run) -> None:
    page = write_report(demo_run)
    assert page == demo_run.workdir.path / "report" / "index.html"
    found = check_page(page)
    text = "".join(found.text)
    assert "DEDN on the demo set of drawn creatures" in text
    assert str(demo_run.config.data.path) not in text.split("To repeat it")[0]
    assert "Choosing by chance gives U = S = H = 2.0." in text
    assert "no estimate of the test result" in text
    pictures = [a for a in found.addresses if a.startswith("data:image/jpeg")]
    assert len(pictures) == 20  # two of each of the ten unseen classes
    assert text.count("✓") + text.count("✗") == 20 + 2


def test_a_sweep(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "tiny.hdf5")
    config = tiny_config(data, train__epochs=2)
    result = run_sweep(config, tmp_path / "sweep", 2, ["loss.margin=1,2"])
    assert main(["report", "--workdir", str(tmp_path / "sweep")]) == 0
    out = tmp_path / "sweep" / "report"
    text = "".join(check_page(out / "index.html").text)
    assert "DEDN on tiny: sweep" in text and "sweep sweep" not in text
    assert "The test sets of the other point are not shown" in text
    assert "H on validation classes" in text and "The best by calibrated H" in text
    latex = (out / "table.tex").read_text()
    assert latex.count("calibrated, 2 seeds &") == 1
    assert latex.count(r"$\pm$") == 2 * 5
    note = (
        "Fused score on the test sets, mean ± half of the 95% interval of the mean over the seeds."
    )
    assert latex.splitlines()[0] == f"% {note}"
    assert main(["report", "--workdir", str(tmp_path / "sweep"), "--show-test"]) == 0
    assert "not shown" not in "".join(check_page(out / "index.html").text)
    latex = (out / "table.tex").read_text()
    for point in result["points"]:
        assert f"{point['fused']['T1']['mean']:.1f}" in latex
    assert latex.count("calibrated, 2 seeds &") == 2
    assert read_json(out / "report.json")["points"] == result["points"]
    broken = read_json(tmp_path / "sweep" / "result.json")
    del broken["points"][0]["diverged_at"]
    (tmp_path / "sweep" / "result.json").write_text(str(broken).replace("'", '"'))
    with pytest.raises(InputError):
        write_sweep_report(tmp_path / "sweep")


def test_a_sweep_whose_models_diverged(tmp_path: Path) -> None:
    """A table says how many seeds a mean is over, and has dashes where there are none."""

    def point(margin: float, *values: float) -> dict:
        return {
            "fields": {"loss.margin": margin},
            "diverged_at": [2] * (3 - len(values)) + [None] * len(values),
            "fused": {m: summary(values) for m in ("U", "S", "H", "T1", "AUSUC") if values},
        }

    points = [point(1.0, 1.0, 2.0, 3.0), point(2.0, 1.0, 3.0), point(3.0)]
    result = {"seeds": [0, 1, 2], "points": points}
    shown = table_tex(
        sweep_rows(result, show_test=True), rows_note(result, show_test=True)
    ).splitlines()
    assert shown[0].endswith("over the seeds; seeds whose models diverged are left out.")
    assert shown[3].startswith("loss.margin=1.0, fixed, 3 seeds & 2.0 $\\pm$ 2.5 & ")
    assert shown[4].startswith("loss.margin=2.0, fixed, 2 of 3 seeds & 2.0 $\\pm$ ")
    assert shown[5] == "loss.margin=3.0, fixed, 0 of 3 seeds & -- & -- & -- & -- & -- \\\\"


def test_command_lines(runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(run.workdir.path) for run in runs]
    assert main(["report", "--workdir", *paths]) == 2
    assert "--out is missing; name a folder" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert main(["report", "--workdir", paths[0], f"--out={file}"]) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err
    assert main(["report", "--workdir", paths[0], f"--out={file}/below"]) == 2
    assert f"{file} is not a writable folder" in capsys.readouterr().err
    (tmp_path / "out" / "index.html").mkdir(parents=True)
    assert main(["report", "--workdir", paths[0], f"--out={tmp_path}/out"]) == 2
    assert "index.html: not a regular file" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_needs_a_finished_run(runs: list[Run], tmp_path: Path) -> None:
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_bytes((runs[1].workdir.path / name).read_bytes())
    unfinished = open_run(tmp_path, dataset=runs[1].dataset)
    with pytest.raises(InputError, match="the run is not finished"):
        write_report(unfinished)
    assert not (tmp_path / "report").exists()


def test_without_unseen_images(runs: list[Run], tmp_path: Path) -> None:
    """Only S can be measured: no curve, and dashes; the rest is shown of validation classes."""
    data = runs[1].dataset
    bare = dataclasses.replace(
        data,
        test_unseen=data.test_unseen[:0],
        unpictured_classes=np.array([6, 7]),
        labels=np.where(data.labels >= 6, 0, data.labels).astype(np.int32),
    )
    from dedn_jax.inference.run import train

    run = train(
        tiny_config(Path("nowhere.hdf5"), train__epochs=3),
        tmp_path / "run",
        dataset=bare,
    )
    text = "".join(check_page(write_report(run)).text)
    assert "–" in text
    section = text.split("On validation classes")[1]
    printed = result_text(run.result)
    for found in (run.result["validation"], run.result["calibration"]["fused"]["validation"]):
        h = found.get("fused", found)["H"]
        assert f"{h:.1f}" in section
        assert f"H {h:.1f}" in printed
    assert read_json(tmp_path / "run" / "report" / "report.json")["runs"][0]["curves"] == {}


def test_names_of_data_sets() -> None:
    assert dataset_name("demo", "/home/me/.cache/x") == "the demo set of drawn creatures"
    assert dataset_name("prepared", "sets/mine/1.0.0") == "mine"
    assert dataset_name("store", "stores/cub") == "cub"
    assert dataset_name("published_hdf5", "data/feature_map.hdf5") == "feature_map"
