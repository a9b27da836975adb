"""Attention pooling, all ways of computing it, against float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from dedn_jax.model.attention import (
    BranchRows,
    attention_pool,
    blocks,
    dual_attention,
    images,
    stack_rows,
)
from dedn_jax.model.attention.blocks import Blocks

BATCH, ATTRIBUTES, DIM, POSITIONS = 3, 5, 4, 6
Pool = Callable[[BranchRows, jax.Array], jax.Array]


def in_blocks(branch: str, size: Blocks, rows: BranchRows, features: jax.Array) -> jax.Array:
    """One branch of the form for accelerators, of `[batch, dim, positions]` as the others."""
    if branch == "region":
        return blocks.dual_attention(rows, None, features, size)[0]
    return blocks.dual_attention(None, rows, features.swapaxes(1, 2), size)[1]


WAYS = pytest.mark.parametrize(
    "pool",
    [
        images.pool_dense,
        images.pool_per_image,
        attention_pool,
        functools.partial(in_blocks, "region", Blocks(both=9, channel=9)),
        functools.partial(in_blocks, "region", Blocks(both=2, channel=1)),
        functools.partial(in_blocks, "channel", Blocks(both=9, channel=2)),
        functools.partial(in_blocks, "channel", Blocks(both=1, channel=9)),
    ],
    ids=["dense", "per_image", "cpu", "region", "few_regions", "channel", "few_channels"],
)


def problem(seed: int, *lead: int, positions: int = POSITIONS) -> tuple[BranchRows, jax.Array]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((*lead, *shape)), jnp.float32)

    rows = BranchRows(normal(ATTRIBUTES, DIM), normal(ATTRIBUTES, DIM))
    return rows, normal(BATCH, DIM, positions)


def pool64(score: np.ndarray, attend: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The formula, written as loops."""
    out = np.empty((len(features), len(score)))
    for b, f in enumerate(np.asarray(features, np.float64)):
        for a in range(len(score)):
            logits = np.asarray(attend[a], np.float64) @ f
            weights = np.exp(logits - logits.max())
            out[b, a] = (weights / weights.sum()) @ (np.asarray(score[a], np.float64) @ f)
    return out


def gradients64(
    rows: BranchRows, features: jax.Array, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Central differences of the float64 formula in both rows and in the features."""
    inputs = [np.asarray(x, np.float64) for x in (rows.score, rows.attention, features)]
    step, result = 1e-5, []
    for i, x in enumerate(inputs):
        gradient = np.empty_like(x)
        for at in np.ndindex(*x.shape):
            sides = []
            for sign in (1, -1):
                moved = [a.copy() for a in inputs]
                moved[i][at] += sign * step
                sides.append((cotangent * pool64(*moved)).sum())
            gradient[at] = (sides[0] - sides[1]) / (2 * step)
        result.append(gradient)
    return result[0], result[1], result[2]


def gradients(
    pool: Pool, rows: BranchRows, features: jax.Array, cotangent: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    by_rows, by_features = jax.grad(lambda r, f: (cotangent * pool(r, f)).sum(), (0, 1))(
        rows, features
    )
    return by_rows.score, by_rows.attention, by_features


@WAYS
@pytest.mark.parametrize("positions", [1, 6, 20])
def test_value(pool: Pool, positions: int) -> None:
    rows, features = problem(0, positions=positions)
    expected = pool64(np.asarray(rows.score), np.asarray(rows.attention), np.asarray(features))
    for way in (pool, jax.jit(pool)) if positions == POSITIONS else (jax.jit(pool),):
        found = way(rows, features)
        assert found.shape == (BATCH, ATTRIBUTES)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@WAYS
@pytest.mark.parametrize("positions", [POSITIONS, 2 * DIM + 1])
def test_gradients(pool: Pool, positions: int) -> None:
    rows, features = problem(1, positions=positions)
    cotangent = np.random.default_rng(2).standard_normal((BATCH, ATTRIBUTES)).astype(np.float32)
    expected = gradients64(rows, features, cotangent)
    ways = [jax.jit(lambda r, f: gradients(pool, r, f, cotangent))]
    if positions == POSITIONS:
        ways.append(lambda r, f: gradients(pool, r, f, cotangent))
    for found in (way(rows, features) for way in ways):
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(f, e, atol=3e-6 * np.abs(e).max())


@WAYS
def test_vmap_over_seeds(pool: Pool) -> None:
    """Values and gradients of three seeds at once; the features belong to all of them."""
    rows, _ = problem(3, 3)
    _, features = problem(4)
    together = jax.jit(jax.vmap(pool, (0, None)))(rows, features)
    one = np.ones((BATCH, ATTRIBUTES), np.float32)
    grads = jax.jit(jax.vmap(lambda r: gradients(pool, r, features, one)))(rows)
    of_one = jax.jit(lambda r: gradients(pool, r, features, one))
    for seed in range(3):
        alone = BranchRows(rows.score[seed], rows.attention[seed])
        np.testing.assert_allclose(together[seed], pool(alone, features), atol=2e-6)
        for g, e in zip(grads, of_one(alone), strict=True):
            np.testing.assert_allclose(g[seed], e, atol=5e-6)


@WAYS
def test_huge_logits_and_uniform_attention(pool: Pool) -> None:
    rows, features = problem(5)
    peaked = BranchRows(rows.score, 1e5 * rows.attention)
    best = jnp.argmax(jnp.einsum("ad,bdp->bap", rows.attention, features), -1)
    scores = jnp.einsum("ad,bdp->bap", rows.score, features)
    expected = jnp.take_along_axis(scores, best[..., None], -1)[..., 0]
    compiled = jax.jit(pool)
    np.testing.assert_allclose(compiled(peaked, features), expected, rtol=1e-5, atol=1e-6)
    one = np.ones((BATCH, ATTRIBUTES), np.float32)
    slopes = jax.jit(lambda r: gradients(pool, r, features, one))(peaked)
    assert all(np.isfinite(g).all() for g in slopes)
    flat = BranchRows(rows.score, jnp.zeros_like(rows.attention))
    np.testing.assert_allclose(compiled(flat, features), scores.mean(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("positions", "name"), [(2 * DIM, "dense"), (2 * DIM + 1, "per_image")])
def test_choice_by_shape(monkeypatch: pytest.MonkeyPatch, positions: int, name: str) -> None:
    """The per-image form is taken where it keeps less: more than two positions per dimension."""
    for way in ("dense", "per_image"):
        monkeypatch.setattr(images, f"pool_{way}", lambda _rows, _features, way=way: way)
    assert attention_pool(*problem(6, positions=positions)) == name


def test_per_image_keeps_nothing_of_every_position() -> None:
    """The backward pass gets no `[batch, attributes, positions]` and no `[batch, a, p]` either.

    Sizes are distinct primes, so that a size tells what an array is.
    """
    batch, attributes, dim, positions = 7, 11, 3, 13
    rows = BranchRows(jnp.ones((attributes, dim)), jnp.ones((attributes, dim)))
    features = jnp.ones((batch, dim, positions))

    def kept(pool: Pool) -> list[int]:
        _, backward = jax.vjp(pool, rows, features)
        return [x.size for x in jax.tree.leaves(backward) if hasattr(x, "size")]

    large = batch * attributes * positions
    per_image = kept(images.pool_per_image)
    assert per_image, "residuals could not be inspected"
    assert max(per_image) < large
    assert max(per_image) == max(batch * attributes * dim, batch * dim * positions)
    assert max(kept(images.pool_dense)) >= large  # the test can tell them apart

    def sizes(jaxpr: jax.extend.core.Jaxpr) -> list[int]:
        found = []
        for equation in jaxpr.eqns:
            found += [v.aval.size for v in equation.outvars if hasattr(v.aval, "size")]
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                found += sizes(inner)
        return found

    def gradient(rows: BranchRows, features: jax.Array, pool: Pool) -> BranchRows:
        return jax.grad(lambda r: pool(r, features).sum())(rows)

    for pool, any_large in ((images.pool_per_image, False), (images.pool_dense, True)):
        jaxpr = jax.make_jaxpr(lambda r, f, pool=pool: gradient(r, f, pool))(rows, features)
        assert (max(sizes(jaxpr.jaxpr)) >= large) == any_large


FORMS = pytest.mark.parametrize(
    "pool",
    [attention_pool, functools.partial(in_blocks, "channel", Blocks(both=2, channel=1))],
    ids=["cpu", "blocks"],
)


@FORMS
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("positions", [2 * DIM, 2 * DIM + 1], ids=["dense", "per_image"])
def test_factors_of_all_products(pool: Pool, dtype: str, positions: int) -> None:
    """bfloat16 features are multiplied as such, forward and backward, added up in float32."""
    rows, features = problem(9, positions=positions)
    features = features.astype(dtype)
    traced = jax.make_jaxpr(jax.grad(lambda r: pool(r, features).sum()))(rows).jaxpr
    # Without the gradient in the features, which nobody asks for here.
    jaxpr, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    # What is kept of every image has no positions any more, and stays float32.
    sizes = {positions, BATCH * positions}  # of one image, or of all in one product
    found = [e for e in products(jaxpr) if any(sizes & {*v.aval.shape} for v in e.invars)]
    assert len(found) >= 2
    for equation in found:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(dtype)}
        assert equation.outvars[0].aval.dtype == jnp.float32


def products(jaxpr: jax.extend.core.Jaxpr) -> Iterator[jax.extend.core.JaxprEqn]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@FORMS
@pytest.mark.parametrize("positions", [2 * DIM, 2 * DIM + 1, 200], ids=["dense", "few", "many"])
def test_bfloat16(pool: Pool, positions: int) -> None:
    """Within rounding of float64; scores far from 0 do not make the gradient worse."""
    rows, features = problem(10, positions=positions)
    features = (features + 3.0).astype(jnp.bfloat16)
    rows = BranchRows(rows.score + 5.0, 0.1 * rows.attention)
    rounded = BranchRows(*(r.astype(jnp.bfloat16) for r in rows))
    exact = np.asarray(features, np.float64)
    expected = pool64(np.asarray(rounded.score), np.asarray(rounded.attention), exact)
    found = jax.jit(pool)(rows, features)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = np.ones((BATCH, ATTRIBUTES), np.float32)
    by_score, by_attention, _ = jax.jit(lambda r: gradients(pool, r, features, one))(rows)
    assert by_score.dtype == by_attention.dtype == jnp.float32
    logits = np.einsum("ad,bdp->bap", np.asarray(rounded.attention, np.float64), exact)
    scores = np.einsum("ad,bdp->bap", np.asarray(rounded.score, np.float64), exact)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    centred = weights * (scores - expected[..., None])
    for f, coefficients in ((by_score, weights), (by_attention, centred)):
        e = np.einsum("bap,bdp->ad", coefficients, exact)
        bound = np.einsum("bap,bdp->ad", np.abs(coefficients), np.abs(exact))
        assert np.all(np.abs(np.asarray(f) - e) <= 2.0**-8 * bound + 1e-5)


@FORMS
@pytest.mark.parametrize("positions", [2 * DIM, 2 * DIM + 1], ids=["dense", "per_image"])
def test_bfloat16_over_seeds(pool: Pool, positions: int) -> None:
    rows, _ = problem(11, 3)
    features = problem(12, positions=positions)[1].astype(jnp.bfloat16)

    def gradient(rows: BranchRows) -> BranchRows:
        return jax.grad(lambda r: pool(r, features).sum())(rows)

    together = jax.jit(jax.vmap(gradient))(rows)
    for seed in range(3):
        alone = jax.jit(gradient)(jax.tree.map(lambda x, seed=seed: x[seed], rows))
        for t, a in zip(together, alone, strict=True):
            np.testing.assert_allclose(t[seed], a, atol=0.02 * float(jnp.abs(a).max()))


def test_dual_attention_and_stacked_rows() -> None:
    """Regions as positions, then channels; rows of two sets stacked are the two sets' results."""
    rng = np.random.default_rng(8)
    channels, regions = 4, 6

    def rows(n: int, dim: int) -> BranchRows:
        return BranchRows(*(jnp.asarray(rng.standard_normal((n, dim)), jnp.float32) for _ in "12"))

    sets = [(rows(n, channels), rows(n, regions)) for n in (2, 3)]
    features = jnp.asarray(rng.standard_normal((BATCH, channels, regions)), jnp.float32)
    by_region, by_channel = dual_attention(
        stack_rows([r for r, _ in sets]), stack_rows([c for _, c in sets]), features
    )
    for branch, found, maps in (
        (0, by_region, np.asarray(features)),
        (1, by_channel, np.asarray(features).transpose(0, 2, 1)),
    ):
        alone = [
            pool64(np.asarray(s[branch].score), np.asarray(s[branch].attention), maps) for s in sets
        ]
        np.testing.assert_allclose(found, np.concatenate(alone, 1), rtol=1e-5, atol=2e-6)
