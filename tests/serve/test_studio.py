"""What the page is about and what it shows, without a page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.serve.designs import Designs
from dedn_jax.serve.studio import Studio
from dedn_jax.serve.view import Attributes, Session, leading_attributes, scale, show
from tests.helpers.picture_runs import PictureRuns


def encoded(runs: PictureRuns, name: str = "class 3/5.jpg") -> bytes:
    return (runs.folder / name).read_bytes()


def test_a_ranking_is_a_prediction(studio: Studio, picture_runs: PictureRuns) -> None:
    picture, run = encoded(picture_runs), picture_runs.small
    looked = studio.recall(studio.look(picture))
    expected = run.predict(picture, top=8)
    found = studio.ranking(looked, Designs())
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    copy = Designs().begun(studio.candidates, "class 7")  # unseen, as a designed class is
    with_copy = studio.ranking(looked, copy)
    scores = dict(zip(with_copy.classes[0].tolist(), with_copy.scores[0].tolist(), strict=True))
    assert scores[8] == pytest.approx(scores[7], abs=1e-6)


def test_pictures_are_forgotten_for_newer_ones(studio: Studio, picture_runs: PictureRuns) -> None:
    picture = encoded(picture_runs)
    tokens = [studio.look(picture) for _ in range(20)]
    assert len(set(tokens)) == 20
    assert studio.recall(tokens[-1]).picture.shape == (64, 64, 3)
    with pytest.raises(InputError, match="no longer in memory"):
        studio.recall(tokens[0])
    with pytest.raises(InputError, match="no longer in memory"):
        studio.recall("../../etc/passwd")


def test_examples_are_test_pictures_of_different_classes(
    studio: Studio, picture_runs: PictureRuns
) -> None:
    names = [example.class_name for example in studio.examples]
    assert names[:4] == ["class 6", "class 0", "class 7", "class 1"]
    assert len(set(names)) == len(names) == 8
    files = {file.read_bytes() for file in picture_runs.folder.glob("*/*.jpg")}
    assert {example.encoded for example in studio.examples} <= files


def test_what_is_shown_follows_the_session(studio: Studio, picture_runs: PictureRuns) -> None:
    assert show(studio, Session()).ranking == ""
    session = Session(picture=studio.look(encoded(picture_runs)))
    shown = show(studio, session)
    e = picture_runs.small.explain(encoded(picture_runs))
    assert shown.attribute == int(e.score.leading(1)[0])
    assert f"<b>{e.score.total:.3f}</b>" in shown.why
    assert shown.verdict == "" and shown.attention.count("<img ") == 2
    begun = Designs().begun(studio.candidates, "class 1")
    drafted = dataclasses.replace(session, designs=begun)
    assert "of 9" in show(studio, drafted).verdict
    draft = begun.among(studio.candidates)
    leading = picture_runs.small.explain(
        encoded(picture_runs), classes=draft, explained="new class 1"
    ).score.leading(3)
    assert leading_attributes(studio, drafted, 3) == leading.tolist()
    assert len(leading_attributes(studio, Session(designs=begun), 4)) == 4
    with pytest.raises(InputError, match="was renamed or removed"):
        show(studio, dataclasses.replace(session, explained="new class 1"))


def test_attributes_stand_group_by_group(studio: Studio) -> None:
    attributes = Attributes(studio)
    assert [a for _, a in attributes.choices] == [0, 1, 2, 4, 3, 5]
    assert all(label.endswith(f": attribute {a}") for label, a in attributes.choices)
    assert attributes.sorted([5, 3, 4]) == [4, 3, 5]


@pytest.mark.parametrize(
    ("greatest", "expected"),
    [(1, (0, 1, 0.01, 2)), (0.2783, (0, 0.279, 0.001, 3)), (100, (0, 100, 1, 0))],
)
def test_sliders_have_round_steps(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, greatest: float, expected: tuple
) -> None:
    rows = np.zeros((8, 6), np.float32)
    rows[:, 0] = greatest
    changed = dataclasses.replace(studio.candidates, embeddings=rows)
    monkeypatch.setattr(studio, "candidates", changed)
    assert scale(studio) == pytest.approx(expected)
