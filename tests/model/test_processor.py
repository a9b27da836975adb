"""bfloat16 products on CPUs that have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from dedn_jax.model.attention import BranchRows, attention_pool, processor
from tests.model.test_attention import products


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    clear = processor.multiplies_bfloat16.cache_clear
    clear()
    yield
    clear()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 erms\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features : fp asimd bf16 i8mm\n", True),
        ("flags : fpu avx512f\nbugs : avx512_bf16\n", False),
        ("", False),
        (None, False),
    ],
)
def test_flags(
    text: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    assert processor.multiplies_bfloat16() is found


@pytest.mark.parametrize("positions", [4, 30])
@pytest.mark.parametrize(
    ("native", "precision", "dtype"),
    [
        (True, "bfloat16", jnp.bfloat16),
        (True, "float32", jnp.float32),
        (False, "bfloat16", jnp.float32),
    ],
)
def test_products(
    native: bool,
    precision: str,
    dtype: jax.typing.DTypeLike,
    positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward and backward in the type, and within its rounding of float32's."""
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: native)
    rng = np.random.default_rng(0)
    rows = BranchRows(*jnp.asarray(rng.standard_normal((2, 5, 6)), jnp.float32))
    features = jnp.asarray(rng.random((3, 6, positions)), jnp.float32)

    def loss(rows: BranchRows) -> jax.Array:
        return attention_pool(rows, features).sum()

    exact = jax.value_and_grad(loss)(rows)
    with jax.default_matmul_precision(precision):
        traced = jax.make_jaxpr(jax.grad(loss))(rows).jaxpr
        # Without the gradient in the features, which nobody asks for here.
        jaxpr, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
        of_map = [e for e in products(jaxpr) if any(positions in v.aval.shape for v in e.invars)]
        found = jax.value_and_grad(loss)(rows)
    assert len(of_map) >= 2
    assert {v.aval.dtype for e in of_map for v in e.invars} == {jnp.dtype(dtype)}
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(f, e, atol=0.03 * float(jnp.abs(e).max()))
