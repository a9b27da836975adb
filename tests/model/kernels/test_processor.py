"""bfloat16 products on CPUs that have them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from dedn_jax.model import kernels
from dedn_jax.model.attention import BranchRows, attention_pool
from dedn_jax.model.kernels import processor
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


@pytest.mark.parametrize("native", [True, False])
def test_resolved_by_precision(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "multiplies_bfloat16", lambda: native)

    def resolved(platform: str, precision: str) -> str:
        return kernels.resolve_kernel("auto", platform, (2048, 196), precision)

    assert resolved("cpu", "bfloat16") == ("cpu_bfloat16" if native else "cpu")
    assert resolved("cpu", "float32") == "cpu"
    assert resolved("gpu", "bfloat16") == "gpu"


@pytest.mark.parametrize("positions", [4, 30])
def test_products(positions: int) -> None:
    """Forward and backward in bfloat16, and within its rounding of float32's."""
    rng = np.random.default_rng(0)
    rows = BranchRows(*jnp.asarray(rng.standard_normal((2, 5, 6)), jnp.float32))
    features = jnp.asarray(rng.random((3, 6, positions)), jnp.float32)

    def loss(rows: BranchRows, kernel: kernels.Kernel) -> jax.Array:
        return attention_pool(rows, features, kernel).sum()

    traced = jax.make_jaxpr(jax.grad(functools.partial(loss, kernel="cpu_bfloat16")))(rows).jaxpr
    # Without the gradient in the features, which nobody asks for here.
    jaxpr, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    sizes = {positions, 3 * positions}  # of one image, or of all in one product
    of_map = [e for e in products(jaxpr) if any(sizes & {*v.aval.shape} for v in e.invars)]
    assert len(of_map) >= 2
    assert {v.aval.dtype for e in of_map for v in e.invars} == {jnp.dtype("bfloat16")}
    exact, found = (jax.value_and_grad(loss)(rows, k) for k in ("cpu", "cpu_bfloat16"))
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(f, e, atol=0.03 * float(jnp.abs(e).max()))
