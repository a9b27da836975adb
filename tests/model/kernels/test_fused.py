"""Fused attention pooling against float64: kernels interpreted, and as a GPU runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model.attention import BranchRows, attention_pool, dual_attention, fused
from dedn_jax.model.kernels import gpu_blocks, tpu_blocks
from tests.model.kernels.problems import Problem, Size, assert_close, problem, reference

BACKENDS = pytest.mark.parametrize(
    "backend", ["gpu", "tpu", pytest.param("compiled", marks=pytest.mark.gpu)]
)


def by_gpu_constant(name: str, *values: int) -> pytest.MarkDecorator:
    """Every backend and value of a constant of `gpu_blocks`, which TPUs have no use for."""
    gpu = [("gpu", value) for value in values]
    compiled = [pytest.param("compiled", value, marks=pytest.mark.gpu) for value in values]
    return pytest.mark.parametrize(("backend", name), [*gpu, ("tpu", values[0]), *compiled])


# One of each alone; none a multiple of a block; fewer channels than regions.
SIZES = [Size(1, 1, 1, 1), Size(2, 5, 24, 6), Size(3, 85, 130, 49), Size(2, 17, 9, 40)]
SMALL = SIZES[1]


def pool_of(backend: str) -> Callable[..., Any]:
    # A new function each time, so that `jit` traces it anew after constants were changed.
    if backend == "compiled":
        return functools.partial(fused.dual_attention)
    return functools.partial(fused.dual_attention, interpret=backend)


@functools.partial(jax.jit, static_argnums=0)
def everything(pool: Callable[..., Any], of: Problem) -> list[Any]:
    """Both values, then the gradients, as `reference` gives them."""
    value, vjp = jax.vjp(pool, of.region, of.channel, of.features)
    return [*value, *vjp((of.by_region, of.by_channel))]


@BACKENDS
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradients(backend: str, size: Size) -> None:
    of = problem(size)
    found = everything(pool_of(backend), of.arrays())
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    assert_close(found, reference(of))
    # Without a gradient, other kernels.
    arrays = of.arrays()
    assert_close(jax.jit(pool_of(backend))(*arrays[:3]), reference(of)[:2])


@BACKENDS
def test_bfloat16_features(backend: str) -> None:
    of = problem(Size(3, 20, 49, 40), dtype="bfloat16")
    found = everything(pool_of(backend), of.arrays("bfloat16"))
    # Rows and their gradients stay float32: only products are of bfloat16.
    assert [x.dtype for x in jax.tree.leaves(found)] == [jnp.float32] * 6 + [jnp.bfloat16]
    assert_close(found, reference(of), "bfloat16")


def test_float16_features_are_computed_in_float32() -> None:
    of = problem(SMALL, dtype="float16")
    *found, by_features = everything(pool_of("tpu"), of.arrays("float16"))
    *expected, by_features_too = reference(of)
    assert by_features.dtype == jnp.float16
    assert_close(found, expected)
    assert_close(by_features, by_features_too, "bfloat16")


@by_gpu_constant("one_pass", 128, 0)
def test_scores_with_a_value_in_common(
    backend: str, one_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 with scores of 128 ± 1, and with large logits, where few positions have weight.

    `Σ β s f - p Σ β f` of rounded factors is off by 16 % to 220 % of the largest number here, the
    kernels by 0.4 %.
    """
    monkeypatch.setattr(gpu_blocks, "_ONE_PASS", one_pass)
    pool = pool_of(backend)
    for scale in (1.0, 30.0):
        of = problem(Size(2, 12, 64, 16), dtype="bfloat16", scale=scale)
        for rows in (of.region, of.channel):
            rows.score[:, 0] = 128.0
        of.features[:, 0], of.features[..., 0] = 1.0, 1.0
        found = everything(pool, of.arrays("bfloat16"))
        expected = reference(of)
        for x, y in zip(found[2:4], expected[2:4], strict=True):
            error = np.abs(np.asarray(x.attention, np.float64) - y.attention).max()
            assert error <= 2**-7 * np.abs(y.attention).max(), scale


@by_gpu_constant("all_", 16, 256)
@pytest.mark.parametrize("size", [Size(5, 39, 75, 37), Size(3, 20, 37, 75)])
def test_several_blocks(
    backend: str, size: Size, all_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of everything, each with a rest; maxima in any block."""
    monkeypatch.setattr(gpu_blocks, "_ATTRIBUTES", 32)
    monkeypatch.setattr(gpu_blocks, "SIDE", 16)
    monkeypatch.setattr(gpu_blocks, "CHUNK", 16)
    monkeypatch.setattr(gpu_blocks, "_ALL", all_)
    monkeypatch.setattr(gpu_blocks, "_ONE_PASS", 16)
    monkeypatch.setattr(gpu_blocks, "_MOST", 32)
    monkeypatch.setattr(
        tpu_blocks,
        "blocks",
        lambda *_, **__: tpu_blocks.Blocks(images=2, attributes=16, vmem=2**24),
    )
    of = problem(size, scale=4.0)
    assert_close(everything(pool_of(backend), of.arrays()), reference(of))


@pytest.mark.parametrize("size", SIZES)
def test_wide_matrix_units(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes in parts, logits first, as on a TPU whose matrix units are 256 wide."""
    monkeypatch.setattr(tpu_blocks, "_PART", 16)
    monkeypatch.setattr(tpu_blocks, "chip", lambda: tpu_blocks.Chip(2**26, 200e12, columns=256))
    of = problem(size)
    assert_close(everything(pool_of("tpu"), of.arrays()), reference(of))
    assert_close(jax.jit(pool_of("tpu"))(*of.arrays()[:3]), reference(of)[:2])


@BACKENDS
def test_extreme_logits(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits to ±1e4, all of one sign, in several blocks: a zero from padding would win or blow."""
    monkeypatch.setattr(gpu_blocks, "SIDE", 16)
    of, pool = problem(Size(2, 5, 134, 20)), pool_of(backend)
    of.features[:, 0] = np.random.default_rng(1).choice([0.5, 1.0, 1.25], of.features[:, 0].shape)
    of.features[..., 0] = np.random.default_rng(2).choice([0.5, 1.0], of.features[..., 0].shape)
    for sign in (1, -1):
        # Powers of two: logits are exact, so that the winner is the same in float64.
        for rows in (of.region, of.channel):
            rows.attention[:] = 0.0
            rows.attention[:, 0] = sign * 8192.0
        *found, by_features = everything(pool, of.arrays())
        assert_close(found, reference(of)[:4])
        assert np.isfinite(np.asarray(by_features)).all(), sign


@BACKENDS
def test_zero_features_and_empty_sizes(backend: str) -> None:
    of = problem(SMALL)
    of.features[:] = 0.0
    assert_close(everything(pool_of(backend), of.arrays()), reference(of))
    rows = BranchRows(jnp.ones((3, 4)), jnp.ones((3, 4)))
    nothing, no_branch = pool_of(backend)(rows, None, jnp.ones((0, 4, 6)))
    assert nothing.shape == (0, 3)
    assert no_branch is None


@BACKENDS
def test_vmap_of_rows_over_shared_features(backend: str) -> None:
    """Several seeds train on one batch."""
    problems = [problem(SMALL, seed) for seed in range(3)]
    features = problems[0].features
    stacked = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *problems)
    stacked = stacked._replace(features=jnp.asarray(features, jnp.float32))
    rows = BranchRows(0, 0)
    axes = Problem(rows, rows, None, 0, 0)
    found = jax.jit(jax.vmap(functools.partial(everything, pool_of(backend)), (axes,)))(stacked)
    for seed, of in enumerate(problems):
        one = jax.tree.map(lambda x, seed=seed: x[seed], found)
        assert_close(one, reference(of._replace(features=features)))


@BACKENDS
def test_scan(backend: str) -> None:
    """A step of gradient descent per batch, as training does several steps in one program."""
    batches = [problem(SMALL, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *batches)
    rows = batches[0].arrays()[:2]

    def step(rows: Any, batch: Problem) -> tuple[Any, None]:
        found = everything(pool_of(backend), batch._replace(region=rows[0], channel=rows[1]))
        return jax.tree.map(lambda r, g: r - 0.1 * g, rows, (found[2], found[3])), None

    found, _ = jax.jit(lambda rows: jax.lax.scan(step, rows, stacked))(rows)
    expected = batches[0][:2]
    for batch in batches:
        _, _, *gradients, _ = reference(batch._replace(region=expected[0], channel=expected[1]))
        expected = jax.tree.map(lambda r, g: r - 0.1 * g, expected, tuple(gradients))
    assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["gpu", "pallas"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [Size(4, 624, 2048, 196), Size(4, 170, 2048, 49)])
def test_published_sizes(size: Size, dtype: str, kernel: str) -> None:
    of = problem(size, dtype=dtype)
    found = everything(functools.partial(dual_attention, kernel=kernel), of.arrays(dtype))
    assert_close(found, reference(of), dtype)


@pytest.mark.gpu
def test_tensorfloat32() -> None:
    of = problem(Size(4, 170, 2048, 49))
    with jax.default_matmul_precision("tensorfloat32"):
        found = everything(pool_of("compiled"), of.arrays())
    assert_close(found, reference(of), "tensorfloat32")


def test_the_model_calls_it() -> None:
    """On this platform, without being told a backend; by itself for one branch."""
    of = problem(SMALL).arrays()
    expected = dual_attention(*of[:3], kernel="cpu")
    found = jax.jit(functools.partial(dual_attention, kernel="pallas"))(*of[:3])
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    x = attention_pool(of.region, of.features, kernel="pallas")
    np.testing.assert_allclose(x, expected[0], rtol=1e-5, atol=1e-6)
