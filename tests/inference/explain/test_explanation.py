"""Explanations of pictures by a trained run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.explain.explanation import Explanation
from dedn_jax.inference.run import Run
from tests.helpers.picture_runs import PictureRuns

PICTURES = ("class 0/1.jpg", "class 6/0.jpg", "class 7/2.jpg")


def _kinds(runs: PictureRuns) -> tuple[Run, ...]:
    return runs.images, runs.store, runs.small


def test_parts_add_up_to_the_scores_of_the_scorer(picture_runs: PictureRuns):
    """To 1e-5, for every kind of run: from pictures, a store, with calibration."""
    for run in _kinds(picture_runs):
        for name in PICTURES:
            path = picture_runs.folder / name
            found = run.explain(path)
            scorer = run.picture_scorer
            scores = scorer.scores(scorer.decode(path)[None], run.candidates).mixed(run.mixing())[0]
            np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-6)
            first, second = np.argsort(-scores)[:2]
            assert (found.explained, found.against) == (first, second)
            assert found.score.total == pytest.approx(scores[first], rel=1e-5)
            assert found.difference is not None
            gap = float(scores[first]) - float(scores[second])
            assert found.difference.total == pytest.approx(gap, abs=1e-5)


def test_attention_is_the_models(picture_runs: PictureRuns):
    """In the data set's order, on the grid of the backbone."""
    run = picture_runs.images
    pixels = run.picture_scorer.decode(picture_runs.folder / PICTURES[0])
    found = run.explain(pixels)
    with run.computing():
        _, attention = jax.jit(lambda x: run.model(x, return_attention=True))(pixels[None])
    order = run.groups.order
    for e, expert in enumerate(attention):
        regions = found.region_attention[e].reshape(run.dataset.num_attributes, -1)
        np.testing.assert_allclose(regions[order], expert.region[0], atol=1e-6)
        np.testing.assert_allclose(found.channel_attention[e][order], expert.channel[0], atol=1e-6)
    np.testing.assert_allclose(found.region_attention.sum((2, 3)), 1, atol=1e-5)


def test_named_classes_and_new_ones(picture_runs: PictureRuns):
    run, path = picture_runs.images, picture_runs.folder / PICTURES[0]
    ranked = run.explain(path)
    order = [ranked.class_names[k] for k in ranked.ranked()]
    found = run.explain(path, explained=order[3], against=order[5])
    text = f"<Explanation of {order[3]!r}, compared with {order[5]!r}: score "
    assert repr(found).startswith(text) and len(repr(found)) < 200
    assert (found.class_name, found.against_name) == (order[3], order[5])
    # The class to compare with is not the answer, even if it is the best.
    assert run.explain(path, against=order[0]).class_name == order[1]
    assert run.explain(path, explained=order[2]).against_name == order[0]

    # A class described as an unseen one is scored as that, with gamma.
    unseen = int(np.flatnonzero(~run.candidates.seen)[0])
    same = run.candidates.with_new({"griffin": run.candidates.embeddings[unseen]})
    new = run.explain(path, classes=same, explained="griffin")
    old = run.explain(path, explained=run.candidates.names[unseen])
    assert new.score.total == pytest.approx(old.score.total, rel=1e-6)
    assert new.score.gamma == run.mixing().gamma

    alone = run.explain(path, classes=run.candidates.with_new({"a": np.ones(6)}, only=True))
    assert alone.against is None and alone.difference is None
    assert alone.to_json()["against"] is None


def test_names_that_are_no_candidates(picture_runs: PictureRuns):
    run, path = picture_runs.images, picture_runs.folder / PICTURES[0]
    with pytest.raises(InputError, match=r"class 'clas 3': none of the 8 .* did you mean 'class"):
        run.explain(path, explained="clas 3")
    for name in ("explained", "against"):
        with pytest.raises(InputError, match=r"^class 0 of type int, expected the name of a cand"):
            run.explain(path, **{name: 0})
    with pytest.raises(InputError, match="cannot be compared with itself"):
        run.explain(path, explained="class 3", against="class 3")
    alone = run.candidates.with_new({"a": np.ones(6)}, only=True)
    with pytest.raises(InputError, match="cannot be compared with itself"):
        run.explain(path, classes=alone, against="a")


def test_json_holds_every_number(made_up: Explanation):
    found = json.loads(json.dumps(made_up.to_json()))
    assert found["explained"] == made_up.class_names[1]
    assert [s["class"] for s in found["scores"]] == [
        made_up.class_names[k] for k in np.argsort(-made_up.scores)
    ]
    for name, parts in (("score", made_up.score), ("difference", made_up.difference)):
        assert parts is not None
        rows = found[name]["attributes"]
        assert [row["name"] for row in rows] == list(made_up.attribute_names)
        keys = ("coarse_region", "coarse_channel", "fine_region", "fine_channel")
        np.testing.assert_allclose(
            [[row[key] for row in rows] for key in keys], parts.parts.reshape(4, -1)
        )
        total = sum(row["part"] for row in rows) + found[name]["gamma"]
        assert total == pytest.approx(found[name]["total"])
        for e, expert in enumerate(("coarse", "fine")):
            shares = found[name]["channels"][expert]
            assert sum(shares) == pytest.approx(parts.parts[e, 1].sum(), abs=1e-4)
    assert found["grid"] == [2, 3]
    for e, expert in enumerate(("coarse", "fine")):
        np.testing.assert_allclose(
            found["region_attention"][expert],
            made_up.region_attention[e].reshape(6, -1),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            found["attribute_scores"][f"{expert}_channel"], made_up.attributes[e, 1], rtol=1e-6
        )
