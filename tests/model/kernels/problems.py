"""Attention problems, and their values and gradients in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dedn_jax.model.attention import BranchRows

TOLERANCE = {"float32": 1e-5, "tensorfloat32": 3e-3, "bfloat16": 2e-2}


class Size(NamedTuple):
    """Of a problem; the channel branch has one attribute more."""

    batch: int
    attributes: int
    channels: int
    regions: int


class Problem(NamedTuple):
    """Rows, features and cotangents, float64 or what it was converted to."""

    region: BranchRows
    channel: BranchRows
    features: Any
    by_region: Any
    by_channel: Any

    def arrays(self, dtype: str = "float32") -> Problem:
        """In float32, features in `dtype`."""
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self)
        return single._replace(features=jnp.asarray(self.features, dtype))


def problem(size: Size, seed: int = 0, dtype: str = "float32", scale: float = 1.0) -> Problem:
    """Values rounded to `dtype`, so that rounding them again loses nothing; logits of `scale`."""
    batch, attributes, channels, regions = size
    rng = np.random.default_rng(seed)

    def rounded(*shape: int, scale: float = 1.0) -> np.ndarray:
        values = jnp.asarray(scale * rng.standard_normal(shape), dtype)
        return np.asarray(values, np.float64)

    def rows(attributes: int, dim: int) -> BranchRows:
        score, attention = (rounded(attributes, dim, scale=s * dim**-0.5) for s in (1.0, scale))
        return BranchRows(score, attention)

    return Problem(
        rows(attributes, channels),
        rows(attributes + 1, regions),
        rounded(batch, channels, regions),
        rounded(batch, attributes),
        rounded(batch, attributes + 1),
    )


def _pooled(rows: BranchRows, f: np.ndarray, c: np.ndarray) -> tuple[Any, ...]:
    """`p`, and the gradients by score rows, by attention rows, by features `[batch, dim, _]`."""
    s, logits = (r @ f for r in rows)
    beta = np.exp(logits - logits.max(-1, keepdims=True))
    beta /= beta.sum(-1, keepdims=True)
    p = (beta * s).sum(-1)
    by_s = c[..., None] * beta
    by_logit = by_s * (s - p[..., None])
    by_rows = BranchRows(*(np.tensordot(x, f, ((0, 2), (0, 2))) for x in (by_s, by_logit)))
    by_f = sum(r.T @ x for x, r in zip((by_s, by_logit), rows, strict=True))
    return p, by_rows, by_f


def reference(of: Problem) -> list[Any]:
    """Both values, then the gradients by region rows, channel rows and features."""
    p, by_region, by_f = _pooled(of.region, of.features, of.by_region)
    q, by_channel, by_t = _pooled(of.channel, np.swapaxes(of.features, 1, 2), of.by_channel)
    return [p, q, by_region, by_channel, by_f + np.swapaxes(by_t, 1, 2)]


def assert_close(found: Any, expected: Any, dtype: str = "float32") -> None:
    """Largest difference, relative to the largest number."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert x.shape == y.shape, i
        x = np.asarray(x, np.float64)
        assert np.isfinite(x).all(), i
        # One position has no gradient in the logits: what is left is rounding.
        scale = max(np.abs(y).max(), 0.1)
        assert np.abs(x - y).max() <= TOLERANCE[dtype] * scale, i
