"""What of a metrics file is drawn: other people may have written anything into it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from dedn_jax.inference.report.figures import Learning, draw_learning
from dedn_jax.inference.report.write import _learning


def test_lines_that_cannot_be_drawn_are_left_out(tmp_path: Path) -> None:
    good = {"U": 1.0, "S": 2.0, "H": 3.0}
    lines: list[dict] = [
        {"phase": "final", "step": 1, "loss": 2.0},
        {"phase": "final", "step": 2, "loss": 1e308},
        {"phase": "final", "step": 3, "loss": float("nan")},
        {"phase": "final", "step": 4, "loss": "low"},
        {"phase": "final", "step": -5, "loss": 1.0},
        {"phase": 7, "step": 5, "loss": 1.0},
        {"phase": "final", "step": 6, "evaluated_on": "images", "fused": good},
        {"phase": "final", "step": 7, "evaluated_on": "images", "fused": good | {"H": 1e308}},
        {"phase": "final", "step": 8, "evaluated_on": "images", "fused": good | {"H": None}},
        {"phase": "final", "step": 9, "evaluated_on": 3, "fused": good},
    ]
    file = tmp_path / "metrics.jsonl"
    text = "\n".join(json.dumps(line) for line in lines)
    file.write_text(text + "\n" + "[" * 100_000 + '\n{"phase": "final", "st')
    config = SimpleNamespace(selection=SimpleNamespace(metric="harmonic_mean"))
    run = SimpleNamespace(
        workdir=SimpleNamespace(metrics_file=file), result={"selected_step": 6}, config=config
    )
    found = _learning("run", run)  # type: ignore[arg-type]
    assert [line["step"] for line in found.evaluations] == [6]
    assert found.losses["final"][0] == [1, 3]
    assert "<svg" in draw_learning([found])


def test_the_metric_that_selected_is_drawn() -> None:
    """Of one run beside U, S and H, of several alone; H where they differ in it."""
    fused = {"U": 10.0, "S": 20.0, "H": 15.0, "T1": 30.0, "AUSUC": 0.4}
    by_h, by_ausuc = (
        Learning("run", "classes", [{"step": 3, "fused": fused}], {}, 3, metric)
        for metric in ("H", "AUSUC")
    )
    assert "AUSUC" not in draw_learning([by_h])
    one = draw_learning([by_ausuc])
    assert "AUSUC x 100" in one and ">H<" in one
    assert "AUSUC x 100, percent" in draw_learning([by_ausuc, by_ausuc])
    assert "H, percent" in draw_learning([by_h, by_ausuc])
