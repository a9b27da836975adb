"""The parts of a score add up to the score."""

from __future__ import annotations

import numpy as np
import pytest

from dedn_jax.inference.explain.decomposition import Decomposition, decompose
from dedn_jax.model.experts import PerExpert
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.scores import Branches
from tests.helpers.picture_runs import PictureRuns

MIXING = Mixing(region_mix=0.7, expert_mix=0.85, bias=0.4)


def _of_image(scores: PerExpert[Branches], image: int) -> np.ndarray:
    return np.stack([[branch[image] for branch in expert] for expert in scores])


def test_by_hand():
    """Two attributes; p = 1, 2 and so on."""
    attributes = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    found = decompose(attributes, np.array([0.6, 0.8]), seen=False, mixing=Mixing(0.75, 0.5, 0.25))
    expected = [[[0.225, 0.6], [0.225, 0.4]], [[1.125, 1.8], [0.525, 0.8]]]
    np.testing.assert_allclose(found.parts, expected)
    np.testing.assert_allclose(found.by_attribute, [2.1, 3.6])
    assert found.gamma == 0.5
    assert found.total == pytest.approx(6.2)


@pytest.mark.slow
def test_add_up_to_the_scores_of_the_test_images(picture_runs: PictureRuns):
    """To 1e-5, for every class of every test image; also of one branch of one expert alone."""
    run = picture_runs.images
    scores, embeddings = run.scores, run.candidates.normalized
    for mixing in (MIXING, run.mixing(), Mixing(1.0, 1.0, 0.0), Mixing(1.0, 0.0, 0.0)):
        mixed = scores.mixed(mixing)
        for image in range(len(mixed)):
            attributes = _of_image(scores.attributes, image)
            found = [
                decompose(attributes, z, seen=bool(seen), mixing=mixing)
                for z, seen in zip(embeddings, scores.seen, strict=True)
            ]
            np.testing.assert_allclose(
                [parts.total for parts in found], mixed[image], rtol=1e-5, atol=1e-6
            )
            best, second = np.argsort(-mixed[image])[:2]
            assert (found[best] - found[second]).total == pytest.approx(
                mixed[image, best] - mixed[image, second], rel=1e-5, abs=1e-5
            )


def test_leading_are_the_largest_of_either_sign():
    parts = np.zeros((2, 2, 4))
    parts[0, 0] = [0.1, -3.0, 2.0, 0.5]
    parts[1, 1] = [0.1, 0.5, 1.0, -0.5]
    found = Decomposition(parts, 0.0)
    np.testing.assert_allclose(found.by_attribute, [0.2, -2.5, 3.0, 0.0])
    assert found.leading(3).tolist() == [2, 1, 0]


def test_channels_share_out_the_channel_branch():
    rng = np.random.default_rng(0)
    parts = Decomposition(rng.standard_normal((2, 2, 3)), 0.0)
    attention = rng.random((2, 3, 5))
    attention /= attention.sum(-1, keepdims=True)
    found = parts.channels(attention)
    np.testing.assert_allclose(found.sum(1), parts.parts[:, 1].sum(1))
    # Attribute 1 alone adds to the fine expert's channel 4.
    only = np.zeros((2, 3, 5))
    only[:, 1, 4] = 1
    expected = np.zeros((2, 5))
    expected[:, 4] = parts.parts[:, 1, 1]
    np.testing.assert_allclose(parts.channels(only), expected)
