"""The page, the figures and the files of an explanation."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.inference.explain.bars import (
    bars,
    leading_channels,
    rest,
    shown_attributes,
    signed,
    span,
)
from dedn_jax.inference.explain.decomposition import Decomposition
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.explain.figures import draw_attention, draw_scores
from dedn_jax.inference.explain.page import page
from dedn_jax.inference.explain.writing import safe_stems, write_explanation
from tests.inference.explain.conftest import MIXING, NAMES, SIDE

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects text and images, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def _read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_bars_and_the_rest_add_up_to_the_total(made_up: Explanation):
    for parts in (made_up.score, made_up.difference):
        assert parts is not None
        for top in (1, 3, 6, 99):
            lines, sums = bars(parts, NAMES, top), rest(parts, top)
            left = sum(value for _, value in sums[:-1])
            assert sum(bar.value for bar in lines) + left == pytest.approx(parts.total)
            assert sums[-1] == ("total", parts.total)
            low, high = span(lines)
            for bar in lines:
                ends = [(start, start + length) for _, start, length in bar.boxes()]
                assert all(low - 1e-9 <= a < b <= high + 1e-9 for a, b in ends)
                lengths = {name: length for name, _, length in bar.boxes()}
                expected = np.abs(bar.segments[bar.segments != 0])
                np.testing.assert_allclose(list(lengths.values()), expected)
    assert [bar.label for bar in bars(made_up.score, NAMES, 3)] == [
        NAMES[a] for a in made_up.score.leading(3)
    ]
    labels = [label for label, _ in rest(made_up.score, 3)]
    assert labels == ["3 other attributes", "gamma, of unseen classes", "total"]


def test_what_adds_nothing_is_not_listed(made_up: Explanation):
    """As where attributes are 0 or 1; something is always shown."""
    two, nothing = np.zeros(6), np.zeros(6)
    two[[1, 4]] = 1.0
    difference = two * [0, 0, 0, 0, 1, 0]
    score = Decomposition(made_up.score.parts * two, 0.0)
    for other, lines in ((difference, [4]), (nothing, [0])):
        against = Decomposition(made_up.score.parts * other, 0.0)
        e = dataclasses.replace(made_up, score=score, difference=against)
        for top in (5, 99):
            assert {bar.label for bar in bars(score, NAMES, top)} == {NAMES[1], NAMES[4]}
            assert [bar.label for bar in bars(against, NAMES, top)] == [NAMES[a] for a in lines]
            labels = [name for name, _ in rest(score, top)]
            assert labels == ["4 other attributes", "total"]
            assert sorted(shown_attributes(e, top)) == [1, 4]
        text = page(e, "jay.jpg", 5)
        for a in {0, 2, 3, 5} - set(lines):
            assert NAMES[a] not in _read(text).text
        assert draw_scores(e, 5) and draw_attention(e, 5)
    channels = dataclasses.replace(e, score=score.of_expert(0))
    coarse, fine = leading_channels(channels, 4)
    assert len(coarse) == 4 and len(fine) == 1


def test_channels_are_the_strongest_of_each_expert(made_up: Explanation):
    shares = made_up.score.channels(made_up.channel_attention)
    for e, channels in enumerate(leading_channels(made_up, 3)):
        strongest = np.argsort(-np.abs(shares[e]))[:3].tolist()
        assert [bar.label for bar in channels] == [f"channel {c}" for c in strongest]
        for bar, c in zip(channels, strongest, strict=True):
            ((name, _, length),) = bar.boxes()
            assert name == ("coarse, channel", "fine, channel")[e]
            assert bar.value == shares[e, c] and length == abs(shares[e, c])


def test_numbers_keep_two_digits():
    values = [1.25, -0.25, 0.0421, -0.000423, 0.0, -1e-12]
    assert [signed(v) for v in values] == ["+1.250", "−0.250", "+0.042", "−0.00042", "0", "0"]


def test_the_page_shows_names_as_text_and_needs_nothing_else(made_up: Explanation):
    text = page(made_up, '<img src="x">.jpg', 3)
    found = _read(text)
    assert "script" not in found.tags and "b" in found.tags
    assert "Why <script>alert(1)</script>?" in found.text
    assert '<img src="x">.jpg' in found.text
    for a in shown_attributes(made_up, 3):
        assert NAMES[a] in found.text
    assert f"{made_up.score.total:+.3f}".replace("-", "−") in found.text
    assert "50% the coarse expert's" in found.text and f"gamma, {MIXING.gamma:.3f}" in found.text
    assert "http" not in text and "url(" not in text and "<link" not in text
    assert 'name="viewport"' in text


def test_every_image_is_in_the_page_and_has_an_alternative_text(made_up: Explanation):
    images = _read(page(made_up, "jay.jpg", 3)).images
    assert len(images) == 1 + 2 * len(shown_attributes(made_up, 3))
    for image in images:
        head, data = str(image["src"]).split(",", 1)
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.size == (SIDE, SIDE)
        assert image["alt"]
    alts = [image["alt"] for image in images]
    assert len(set(alts)) == len(alts)
    assert alts[0] == "The picture jay.jpg, as the model saw it"


def test_the_bars_drawn_are_those_of_the_numbers(made_up: Explanation):
    """The widths of the rectangles, on each table's scale."""
    section = page(made_up, "jay.jpg", 6).split("<section>")[1]
    widths = [float(w) for w in re.findall(r'<rect x="[-\d.]+" y="1" width="([\d.]+)"', section)]
    lines = bars(made_up.score, NAMES, 6)
    assert len(widths) == 4 * len(lines)
    low, high = span(lines)
    lengths = [length for bar in lines for _, _, length in bar.boxes()]
    np.testing.assert_allclose(widths, 300 * np.array(lengths) / (high - low), atol=0.006)


def test_figures_take_any_name_and_any_number_of_attributes(made_up: Explanation):
    alone = dataclasses.replace(made_up, against=None, difference=None)
    for explanation in (made_up, alone):
        for top in (1, 6):
            for drawn in (draw_scores(explanation, top), draw_attention(explanation, top)):
                with Image.open(io.BytesIO(drawn)) as image:
                    assert image.format == "PNG" and image.width > 300 and image.height > 200


def test_files(made_up: Explanation, tmp_path: Path):
    path = write_explanation(made_up, tmp_path / "out", "jay", "x/jay\udcff.jpg", 4)
    names = {"jay.html", "jay.json", "jay-scores.png", "jay-attention.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert path.name == "jay.html"
    _read(path.read_text())
    saved = json.loads((path.parent / "jay.json").read_text())
    assert saved["picture"] == "x/jay\udcff.jpg" and saved["explained"] == made_up.class_name


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a/jay.jpg", "b/jay.png", "c/JAY.jpg"], ["jay", "jay-2", "JAY-3"]),
        (["jay.jpg", "jay-2.jpg", "jay.jpg"], ["jay", "jay-2", "jay-3"]),
        (["..", "../..", "/", ".hidden.jpg", "-rf.jpg"], ["picture", "picture-2", "picture-3"]),
        (["Blåmeis.jpg", "鳥.png", "Ü.jpg"], ["Blåmeis", "鳥", "Ü"]),
        (["a\\..\\b\n<i>.jpg", "\udcff.jpg"], ["a_.._b_i_", "_"]),
        (["x" * 300 + ".jpg", "é" * 300 + ".jpg"], ["x" * 100, "é" * 50]),
    ],
)
def test_names_of_files_are_safe_and_each_its_own(names: list[str], stems: list[str]):
    found = safe_stems(names)
    assert found[: len(stems)] == stems
    assert len({stem.casefold() for stem in found}) == len(names)
    for stem in found:
        assert Path(stem).name == stem and not stem.startswith((".", "-"))
        assert len(stem.encode()) <= 110
