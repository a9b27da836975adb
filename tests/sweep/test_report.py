"""Means, deviations and intervals against numbers worked out by hand; table and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dedn_jax.inference.report.figures import draw_points
from dedn_jax.sweep.choice import choose
from dedn_jax.sweep.report import SHARED, draw, point_name, result_text, summaries, summary


def test_summary_by_hand() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5
    assert found["deviation"] == pytest.approx((5 / 3) ** 0.5)  # 2·1.5² + 2·0.5² over 3
    # Student's t for 3 degrees of freedom, 97.5 %: 3.182446; √(5/3)/√4 = 0.6454972.
    assert found["interval"] == pytest.approx([2.5 - 2.0542603, 2.5 + 2.0542603], abs=1e-6)
    assert found["values"] == [1.0, 2.0, 3.0, 4.0]


def test_a_single_seed_has_no_interval() -> None:
    assert summary([7.0]) == {"mean": 7.0, "deviation": None, "interval": None, "values": [7.0]}


def test_what_could_not_be_measured_is_left_out() -> None:
    only_seen = [{"fused": {"S": 40.0}}, {"fused": {"S": 60.0}}]
    assert list(summaries(only_seen)) == ["S"]
    assert summaries(only_seen)["S"]["mean"] == 50.0


def test_diverged_models_are_left_out() -> None:
    metrics = [{"fused": {"S": 40.0}}, None, {"fused": {"S": 60.0}}]
    assert summaries(metrics) == {"S": summary([40.0, 60.0])}
    assert summaries([None, None]) == {}


def _result(points: int, values: list[float], diverged: int = 0) -> dict:
    """`diverged` models of the first point, and none of the others, have diverged."""
    fused = {m: summary(values) for m in ("U", "S", "H", "T1")}
    fused["AUSUC"] = summary([v / 10 for v in values])
    remain = {m: fused[m]["values"][diverged:] for m in fused}
    left = {m: summary(v) for m, v in remain.items() if v}
    each = [
        {
            "fields": {"loss.bias": float(i)},
            "selected_by": "the last step",
            "diverged_at": [None if i or k >= diverged else 5 for k in range(len(values))],
            "fused": fused if i else left,
        }
        for i in range(points)
    ]
    return {"seeds": list(range(len(values))), "shared": SHARED, "points": each}


def test_table_and_plot(tmp_path: Path) -> None:
    text = result_text(_result(2, [1.0, 2.0, 3.0, 4.0]), show_test=True)
    rows = [line for line in text.splitlines() if line.startswith("loss.bias=")]
    assert [row.split()[0] for row in rows] == ["loss.bias=0.0", "loss.bias=1.0"]
    assert rows[0].count("2.5 ± 2.1") == 4
    assert rows[0].endswith("0.250 ± 0.205")
    assert "alibrated" not in text
    assert "4 seeds (0 to 3)" in text and "validation split" in text
    assert "iverged" not in text
    for points, values in ((2, [1.0, 2.0]), (7, [3.0])):
        draw(_result(points, values), tmp_path / "sweep.png")
        with Image.open(tmp_path / "sweep.png") as image:
            assert image.size[0] > 400
    # Of what has no unseen images there is nothing to draw, but it is drawn.
    bare = _result(1, [1.0])
    bare["points"][0]["fused"] = {"S": summary([1.0])}
    draw(_with_validation(_result(7, [3.0])), tmp_path / "validation.png")
    assert "-" in result_text(bare)
    draw(bare, tmp_path / "bare.png")


def test_calibrated_beside_fixed() -> None:
    result = _result(1, [1.0, 2.0, 3.0, 4.0])
    result["points"][0]["fused_calibrated"] = {"H": summary([11.0, 12.0, 13.0, 14.0])}
    lines = result_text(result).splitlines()
    fixed = next(i for i, line in enumerate(lines) if line.startswith("loss.bias="))
    assert lines[fixed + 1].split() == ["calibrated", "-", "-", "12.5", "±", "2.1", "-", "-"]
    assert lines[-1].endswith("chosen on validation classes.")


@pytest.mark.parametrize("diverged", [1, 4])
def test_diverged_models_are_counted(
    tmp_path: Path, diverged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _result(2, [1.0, 2.0, 3.0, 4.0], diverged)
    lines = result_text(result, show_test=True).splitlines()
    bad, good = (line for line in lines if line.startswith("loss.bias="))
    assert bad.endswith(f" {diverged} of 4") and good.endswith(" -")
    assert bad.count("3.0 ± 2.5") == (4 if diverged == 1 else 0)  # of 2, 3, 4: t = 4.3, s = 1
    assert lines[-1].startswith("Diverged models") and lines[-1].endswith("left out.")
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_xticks", lambda self, ticks, names, **rest: labels.extend(names))
    draw(result, tmp_path / "sweep.png")
    assert labels == [f"loss.bias=0.0\n{diverged} of 4 diverged", "loss.bias=1.0"]


@pytest.mark.parametrize("points", [1, 4, 9])
def test_long_names_of_points_leave_room_for_the_plot(
    tmp_path: Path, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn beyond the figure, and the axes are a good part of it."""

    def check(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        low, high = figure.get_tightbbox().get_points()  # in inches
        assert (low > -0.02).all() and (high < figure.get_size_inches() + 0.02).all()
        assert axes.bbox.width > 0.5 * figure.bbox.width
        assert axes.bbox.height > 0.3 * figure.bbox.height
        checked.append(figure)
        save(figure, *args, **kwargs)

    checked: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", check)
    result = _with_validation(_result(points, [1.0, 2.0]))
    for point in result["points"]:
        point["fields"] = {
            "loss.distillation.kl.weight": 0.5,
            "optimizer.learning_rate": 1e6,
            "data.path": "/a/rather/long/path/" * 6,
        }
    draw(result, tmp_path / "sweep.png")
    names = [point_name(point) for point in result["points"]]
    found = [point["validation_fused"]["H"] for point in result["points"]]
    draw_points(names, {"fixed": found, "calibrated": found}, "validation classes")
    assert len(checked) == 2


def _with_validation(result: dict, *means: float, calibrated: tuple[float, ...] = ()) -> dict:
    """H on validation classes of every point; test numbers run the other way."""
    for i, point in enumerate(result["points"]):
        mean = means[i] if i < len(means) else float(i)
        point |= {"protocol": "validation", "fused": {"H": summary([90.0 - mean])}}
        point["validation_fused"] = {m: summary([mean]) for m in ("U", "S", "H", "T1", "AUSUC")}
        if calibrated:
            point["validation_fused_calibrated"] = {"H": summary([calibrated[i]])}
            point["fused_calibrated"] = {"H": summary([80.0 - mean])}
    return result


def test_the_best_by_validation_alone_shows_its_test_sets() -> None:
    result = _with_validation(_result(3, [1.0]), 20.0, 40.0, 30.0)
    found = choose(result)
    assert found is not None and found.point == 1
    text = result_text(result)
    assert text.index("Validation classes") < text.index("Test sets of that point")
    assert "* loss.bias=1.0: the best by H on validation classes." in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("loss.bias=")] == [
        "loss.bias=0.0",
        "loss.bias=1.0",
        "loss.bias=2.0",
        "loss.bias=1.0",
    ]
    assert " 50.0" in text
    for other in (" 70.0", " 60.0"):  # the test sets of the others, of which one is better
        assert other not in text
    assert "The test sets of the 2 other points are not shown" in text and "--show-test" in text
    text = result_text(result, show_test=True)
    assert all(number in text for number in (" 70.0", " 60.0", " 50.0"))
    assert "not shown" not in text and "Test sets, fused score" in text


def test_chosen_by_the_metric_of_the_config_and_calibrated_where_all_are() -> None:
    result = _with_validation(_result(2, [1.0]), 20.0, 40.0, calibrated=(60.0, 50.0))
    found = choose(result)
    assert found is not None and found.point == 0
    assert found.by == "calibrated H on validation classes"
    del result["points"][1]["validation_fused_calibrated"]
    found = choose(result)
    assert found is not None and (found.point, found.by) == (1, "H on validation classes")
    result["points"][0]["validation_fused"]["AUSUC"] = summary([0.9])
    result["points"][1]["validation_fused"]["AUSUC"] = summary([0.8])
    found = choose(result | {"metric": "ausuc"})
    assert found is not None and found.point == 0


def test_without_validation_nothing_is_chosen_and_nothing_shown() -> None:
    result = _result(3, [1.0])
    for point in result["points"]:
        point["protocol"] = "last"
    assert choose(result) is None
    text = result_text(result)
    assert (
        "No validation (protocol last), so no point can be chosen; the test sets of the 3" in text
    )
    assert "loss.bias=" not in text
    # A single point leaves no choice.
    assert "not shown" not in result_text(_result(1, [1.0]))
    assert choose(_with_validation(_result(1, [1.0]))) is None
    assert "Test sets, fused" in result_text(_with_validation(_result(1, [1.0])))


def test_a_point_whose_models_diverged_is_the_last_choice() -> None:
    result = _with_validation(_result(2, [1.0, 2.0], diverged=1), 40.0, 20.0)
    found = choose(result)
    assert found is not None and found.point == 1
    result["points"][1]["diverged_at"] = [7, None]
    found = choose(result)
    assert found is not None and found.point == 0
