"""Names in figures are shown as they are, whatever Matplotlib takes them for."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from dedn_jax import figure_text
from dedn_jax.data.pictures.sheet import Row, draw_sheet
from dedn_jax.figure_text import plain_text
from dedn_jax.inference.report.figures import (
    Curve,
    CurvePoint,
    Learning,
    draw_learning,
    draw_points,
    draw_seen_unseen,
)
from dedn_jax.sweep.report import SHARED, draw, summary
from dedn_jax.training.seen_unseen import SeenUnseenCurve

# No formulas, but between dollars.
NAMES = ("$\\frac{$", "a $ b $", "_$x_{$", "$$")


def test_without_it_such_a_name_ends_the_drawing() -> None:
    with pytest.raises(ValueError, match="frac"):
        Figure().text(0, 0, NAMES[0]).figure.savefig(io.BytesIO())  # type: ignore[union-attr]
    with plain_text():
        figure = Figure()
        figure.text(0, 0, NAMES[0])
    figure.savefig(io.BytesIO())


def _draw(text: str) -> None:
    with plain_text():
        figure = Figure()
        figure.text(0.5, 0.5, text)
        figure.savefig(io.BytesIO())


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figure_text, "_said", {"\U00013083"})
    for _ in range(2):
        _draw("\U00013083, plain \U00013080 and \U00013081\U00013080")  # hieroglyphs
    _draw("plain")
    said = capsys.readouterr().err
    assert said.count("figures: \U00013080 \U00013081 drawn as boxes; install") == 1
    assert len(said.splitlines()) == 1
    with pytest.raises(UserWarning, match="another"), plain_text():
        warnings.warn("another", stacklevel=1)
    # A browser finds fonts of its own.
    draw_points(["\U00013082"], {"fixed": [summary([1.0, 2.0])]}, "test sets")
    assert not capsys.readouterr().err


def test_fonts_that_are_installed_are_tried_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of Matplotlib's own has a letter that its first has not."""
    monkeypatch.setattr(figure_text, "_FALLBACKS", ("No such font", "STIXGeneral"))
    _draw("\u2316")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(figure_text, "_FALLBACKS", ("No such font",))
    _draw("\u2316")
    assert "figures: \u2316 drawn as boxes" in capsys.readouterr().err


def test_figures_without_anything_to_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<svg" in draw_points(["diverged"], {"fixed": [None]}, "test sets")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_every_figure_with_names(name: str, tmp_path: Path) -> None:
    curve = SeenUnseenCurve(np.zeros(1), np.asarray([0.0, 50.0]), np.asarray([60.0, 0.0]))
    metrics = {"U": 1.0, "S": 2.0, "H": 3.0}
    learning = Learning(
        name,
        name,
        [{"step": 3, "fused": metrics}],
        {name: ([1, 2], [3.0, 2.0])},
        3,
    )
    drawn = [
        draw_seen_unseen([Curve(name, curve, [CurvePoint(20, 30, name)])]),
        draw_learning([learning, learning]),
        draw_points([name, name], {name: [None, summary([1.0, 2.0])]}, name),
    ]
    shown = name.replace("&", "&amp;")
    assert all(shown in svg for svg in drawn)
    fused = {"H": summary([1.0, 2.0]), "T1": summary([3.0, 2.0])}
    point = {"fields": {"data.path": name}, "fused": fused, "diverged_at": [None, None]}
    draw({"seeds": [0, 1], "points": [point], "shared": SHARED}, tmp_path / "sweep.png")
    picture = np.zeros((8, 8, 3), np.uint8)
    draw_sheet([Row(name, [picture], (name,), ((name, "black"),))])
