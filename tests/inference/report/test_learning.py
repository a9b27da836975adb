"""What of a metrics file is drawn: other people may have written anything into it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from dedn_jax.inference.report.figures import draw_learning
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
    run = SimpleNamespace(workdir=SimpleNamespace(metrics_file=file), result={"selected_step": 6})
    found = _learning("run", run)  # type: ignore[arg-type]
    assert [line["step"] for line in found.evaluations] == [6]
    assert found.losses["final"][0] == [1, 3]
    assert "<svg" in draw_learning([found])
