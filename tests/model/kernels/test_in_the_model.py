"""The model gives the same scores and gradients with either kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import resolve_groups


def test_pallas_gives_what_xla_gives() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((7, 5)).astype(np.float32)
    features = jnp.asarray(rng.standard_normal((3, 24, 9)).astype(np.float32))

    def run(kernel: str) -> tuple[jax.Array, list[jax.Array]]:
        model = DualExpert(
            vectors,
            resolve_groups("0-2;3-6", vectors),
            channels=24,
            regions=9,
            rank=0,
            rngs=nnx.Rngs(1),
            kernel=kernel,  # type: ignore[arg-type]
        )
        definition, params = nnx.split(model)
        params = jax.tree.map(lambda x: x + 0.1, params)

        def loss(params: nnx.State) -> jax.Array:
            coarse, fine = nnx.merge(definition, params)(features)
            scores = (coarse.region, coarse.channel, fine.region, fine.channel)
            return sum(jnp.sin(s * (i + 1)).sum() for i, s in enumerate(scores))

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        return value, jax.tree.leaves(gradient)

    (a, left), (b, right) = run("cpu"), run("pallas")
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(left, right, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5 * float(jnp.abs(x).max()) + 1e-7)
