"""The experts: initial values, shapes, order of outputs, attention weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.interop.convert import state_to_nested
from dedn_jax.interop.published import Params
from dedn_jax.model.experts import AttributeScores, DualExpert
from dedn_jax.model.groups import AttributeGroups, resolve_groups


def make(
    word_vectors: np.ndarray,
    groups: AttributeGroups | dict[str, list[int]] | str,
    channels: int,
    regions: int,
    rank: int = 0,
    seed: int = 0,
) -> tuple[DualExpert, Params]:
    model = DualExpert(
        word_vectors,
        groups,
        channels=channels,
        regions=regions,
        rank=rank,
        rngs=nnx.Rngs(params=seed),
    )
    return model, state_to_nested(nnx.state(model))


def vectors(attributes: int, word_dim: int, seed: int = 0) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal((attributes, word_dim))


def forward64(network: dict[str, np.ndarray], f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One network's region and channel scores in float64, from the mathematics."""
    p = {k: np.asarray(v, np.float64) for k, v in network.items()}
    if "region_score_left" in p:
        p["region_score"] = p["region_score_left"] @ p["region_score_right"]

    def pool(score: np.ndarray, attend: np.ndarray, f: np.ndarray) -> np.ndarray:
        logits = p["word_vectors"] @ attend @ f
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights * (p["word_vectors"] @ score @ f)).sum(-1)

    f = np.asarray(f, np.float64)
    return (
        pool(p["region_score"], p["region_attention"], f),
        pool(p["channel_score"], p["channel_attention"], f.transpose(0, 2, 1)),
    )


def fill_attention(model: DualExpert, seed: int = 5) -> DualExpert:
    """The attention matrices start at 0; with values in them they can be told apart."""
    graph, state = nnx.split(model)
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda x: x if np.any(x) else jnp.asarray(rng.standard_normal(x.shape), jnp.float32), state
    )
    return nnx.merge(graph, state)


@pytest.mark.parametrize("rank", [0, 64])
def test_initial_distributions(rank: int) -> None:
    _, params = make(vectors(6, 300), "0-1;2-5", 512, 196, rank)
    for network in (params["coarse"], *params["fine"]):
        normal = {"region_score_left", "region_score_right"} if rank else {"region_score"}
        for name in (*sorted(normal), "channel_score"):
            x = np.asarray(network[name], np.float64)
            n = x.size
            # Standard errors of mean, variance and fourth moment of n standard normal numbers.
            assert abs(x.mean()) < 5 / np.sqrt(n)
            assert abs(x.var() - 1) < 5 * np.sqrt(2 / n)
            assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / n)
        for name in ("region_attention", "channel_attention"):
            np.testing.assert_array_equal(network[name], 0)
        assert {v.dtype for v in network.values()} == {np.dtype(np.float32)}
    # No matrix is drawn twice, within a network or across networks.
    score = [n["channel_score"] for n in (params["coarse"], *params["fine"])]
    for i, a in enumerate(score):
        for b in score[i + 1 :]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_seeds() -> None:
    v = vectors(4, 8)
    a, b, c = (make(v, "single", 5, 3, seed=s)[1]["coarse"] for s in (1, 1, 2))
    np.testing.assert_array_equal(a["region_score"], b["region_score"])
    assert np.abs(a["region_score"] - c["region_score"]).max() > 0.1


def test_word_vectors_are_unit_rows_and_own_copies() -> None:
    v = vectors(5, 8)
    v[3] = 0  # an attribute without a vector stays zero rather than becoming NaN
    model, params = make(v, "0,3;1-2,4", 6, 4)
    unit = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(params["coarse"]["word_vectors"], unit, atol=1e-6)
    np.testing.assert_allclose(params["fine"][0]["word_vectors"], unit[[0, 3]], atol=1e-6)
    np.testing.assert_allclose(params["fine"][1]["word_vectors"], unit[[1, 2, 4]], atol=1e-6)
    before = np.asarray(model.fine[1].word_vectors[...])
    model.coarse.word_vectors[...] = jnp.zeros((5, 8))
    model.fine[0].word_vectors[...] = jnp.zeros((2, 8))
    np.testing.assert_array_equal(model.fine[1].word_vectors[...], before)


@pytest.mark.parametrize("spec", ["single", "0-4", "4,0;1-2;3", "3;1;0,2,4", "clusters:3"])
@pytest.mark.parametrize(
    ("word_dim", "channels", "regions", "rank", "batch"),
    [(3, 4, 2, 0, 1), (7, 1, 5, 0, 2), (2, 3, 1, 4, 3), (5, 8, 20, 2, 2)],
)
def test_outputs_of_any_sizes_and_groups(
    spec: str, word_dim: int, channels: int, regions: int, rank: int, batch: int
) -> None:
    v = vectors(5, word_dim)
    groups = resolve_groups(spec, v)
    model = fill_attention(make(v, groups, channels, regions, rank)[0])
    params = state_to_nested(nnx.state(model))
    features = np.random.default_rng(1).standard_normal((batch, channels, regions))
    coarse, fine = model(jnp.asarray(features, jnp.float32))
    order = [i for members in groups.members for i in members]
    expected = [x[:, order] for x in forward64(params["coarse"], features)]
    parts = [forward64(network, features) for network in params["fine"]]
    expected += [np.concatenate([part[branch] for part in parts], 1) for branch in (0, 1)]
    for found, e in zip((*coarse, *fine), expected, strict=True):
        assert found.shape == (batch, 5)
        np.testing.assert_allclose(found, e, atol=2e-5 * max(1, np.abs(e).max()))


def test_coarse_output_is_in_group_order() -> None:
    """The same coarse expert with other groups gives the same columns in another order."""
    v = vectors(5, 6)
    features = jnp.asarray(np.random.default_rng(2).standard_normal((2, 4, 3)), jnp.float32)
    plain, _ = make(v, "single", 4, 3)[0](features)
    grouped, _ = make(v, "4,1;3;0,2", 4, 3)[0](features)  # the coarse expert is drawn first
    np.testing.assert_allclose(grouped.region, plain.region[:, [1, 4, 3, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(grouped.channel, plain.channel[:, [1, 4, 3, 0, 2]], atol=1e-6)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_weights_reproduce_the_scores(rank: int, dtype: jax.typing.DTypeLike) -> None:
    v, groups = vectors(5, 6), {"a": [4, 1], "b": [3], "c": [0, 2]}
    model = fill_attention(make(v, groups, 8, 6, rank)[0])
    features = jnp.asarray(np.random.default_rng(2).standard_normal((3, 8, 6)), dtype)
    scores, attention = model(features, return_attention=True)

    # Scores of each position, in group order: the rows of the score matrices times the map.
    order = [1, 4, 3, 0, 2]
    rows = model.rows()
    of_branches = rows.region, rows.channel
    score_rows = {
        "coarse": [np.asarray(of.score)[:5][order] for of in of_branches],
        "fine": [np.asarray(of.score)[5:] for of in of_branches],
    }
    by_branch = np.asarray(features, np.float64), np.asarray(features, np.float64).swapaxes(1, 2)
    tolerance = 2e-5 if dtype == jnp.float32 else 3e-2  # rows are rounded to the features' dtype
    for expert in ("coarse", "fine"):
        for branch in (0, 1):
            f, found = by_branch[branch], getattr(attention, expert)[branch]
            assert found.dtype == jnp.float32
            assert found.shape == (3, 5, f.shape[2])
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
            assert found.min() >= 0
            assert found.max() > 2 / f.shape[2]  # not uniform
            pooled = (found * (score_rows[expert][branch] @ f)).sum(-1)
            expected = getattr(scores, expert)[branch]
            np.testing.assert_allclose(pooled, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("experts", ["both", "fine"])
def test_networks_folded_together(rank: int, experts: str) -> None:
    """As for GPUs: one product for the networks of an expert, the rows the same."""
    v, groups = vectors(6, 6), {"a": [4, 1], "b": [3], "c": [0, 2, 5]}
    found = []
    for kernel in ("cpu", "gpu"):
        model = DualExpert(
            v, groups, channels=8, regions=6, rank=rank, rngs=nnx.Rngs(0),
            kernel=kernel, experts=experts,
        )  # fmt: skip
        found.append(fill_attention(model).rows())
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        assert one.shape == (12 if experts == "both" else 6, one.shape[1])
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_attention_of_a_new_model_is_uniform() -> None:
    model, _ = make(vectors(5, 6), "0-1;2-4", 8, 6)
    features = np.random.default_rng(2).standard_normal((3, 8, 6))
    _, attention = model(features, return_attention=True)
    for weights in (attention.coarse, attention.fine):
        np.testing.assert_allclose(weights.region, np.full((3, 5, 6), 1 / 6), rtol=1e-6)
        np.testing.assert_allclose(weights.channel, np.full((3, 5, 8), 1 / 8), rtol=1e-6)


def test_attention_leaves_the_scores_as_they_are() -> None:
    model = fill_attention(make(vectors(5, 6), "0-1;2-4", 8, 6)[0])
    features = jnp.asarray(np.random.default_rng(2).standard_normal((3, 8, 6)), jnp.float32)
    plain = nnx.jit(lambda m, f: m(f))(model, features)
    scores, _ = nnx.jit(lambda m, f: m(f, return_attention=True))(model, features)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(scores), strict=True):
        np.testing.assert_array_equal(a, b)


def test_maps_with_height_and_width() -> None:
    model = fill_attention(make(vectors(5, 6), "0-1;2-4", 8, 6)[0])
    maps = np.random.default_rng(2).standard_normal((3, 8, 2, 3))
    flat, square = model(maps.reshape(3, 8, 6)), model(maps)
    for a, b in zip(jax.tree.leaves(flat), jax.tree.leaves(square), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(3, 8, 5), (3, 6, 8), (8, 6), (3, 8, 2, 2), (3, 8, 1, 2, 3)])
def test_features_of_another_shape(shape: tuple[int, ...]) -> None:
    model, _ = make(vectors(5, 6), "single", 8, 6)
    with pytest.raises(
        ValueError, match=r"expected \[batch, 8, 6\] or \[batch, 8, height, width\]"
    ):
        model(np.zeros(shape))


def test_shapes_of_both_ranks() -> None:
    v = vectors(5, 7)
    _, full = make(v, "0-1;2-4", 6, 4)
    _, low = make(v, "0-1;2-4", 6, 4, rank=3)
    shared = {"region_attention": (7, 6), "channel_score": (7, 4), "channel_attention": (7, 4)}
    for n, (attributes, network) in enumerate(
        zip((5, 2, 3), (full["coarse"], *full["fine"]), strict=True)
    ):
        assert {k: x.shape for k, x in network.items()} == {
            "word_vectors": (attributes, 7),
            "region_score": (7, 6),
            **shared,
        }, n
    for attributes, network in zip((5, 2, 3), (low["coarse"], *low["fine"]), strict=True):
        assert {k: x.shape for k, x in network.items()} == {
            "word_vectors": (attributes, 7),
            "region_score_left": (7, 3),
            "region_score_right": (3, 6),
            **shared,
        }


def test_mixing_of_branches() -> None:
    scores = AttributeScores(jnp.asarray([[1.0, 2.0]]), jnp.asarray([[10.0, -4.0]]))
    np.testing.assert_allclose(scores.for_training(), [[11, -2]])
    np.testing.assert_allclose(scores.for_evaluation(0.75), [[3.25, 0.5]])
