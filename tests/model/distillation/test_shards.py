"""A batch that is sharded over devices: the shards' terms and gradients are those of all of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.model.losses import BatchMean
from tests.model.distillation.made_up import (
    CASES,
    IMAGES,
    Arrays,
    arrays_of,
    peers_of,
    said,
    setting,
    value_and_gradient,
)

LABELS = setting().labels
ALL = pytest.mark.parametrize("name", OBJECTIVES)


@functools.cache
def of_shards(name: str, padded: bool) -> Callable[..., Any]:
    """Each shard's term and gradient, compiled."""
    _, options = CASES[name]

    def term(arrays: Arrays, labels: jax.Array, weights: jax.Array) -> jax.Array:
        mean = BatchMean(weights if padded else None, "shards")
        return OBJECTIVES[name](peers_of(arrays, mean, labels), **options)

    term_and_gradient = jax.value_and_grad(term)
    return jax.jit(jax.vmap(term_and_gradient, ((0, 0, None), 0, 0), axis_name="shards"))


def sharded(name: str, arrays: Arrays, shards: int, filling: float) -> tuple[jax.Array, Arrays]:
    """Each shard's term and gradient. Rows that fill up say `filling`, of class 0."""

    def cut(x: jax.Array, filling: float = 0.0) -> jax.Array:
        rows = -(-len(x) // shards)
        widths = [(0, shards * rows - len(x)), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, widths, constant_values=filling).reshape(shards, rows, *x.shape[1:])

    *views, heads = arrays
    views = jax.tree.map(lambda x: cut(x, filling), views)
    compiled = of_shards(name, IMAGES % shards > 0)
    return compiled((*views, heads), cut(LABELS), cut(jnp.ones(IMAGES)))


# 2: three rows each; 4: two rows each, of which the last shard has none that is an image.
@pytest.mark.parametrize(("shards", "filling"), [(2, 0.0), (4, 7.0)])
@ALL
def test_shards_add_up(name: str, shards: int, filling: float) -> None:
    arrays = arrays_of(said())
    value, gradient = value_and_gradient(name)(arrays)
    terms, found = sharded(name, arrays, shards, filling)
    np.testing.assert_allclose(terms.sum(), value, rtol=1e-5)
    (*views, heads), (*found_views, found_heads) = gradient, found
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    for mine, theirs in zip(jax.tree.leaves(found_views), jax.tree.leaves(views), strict=True):
        mine = mine.reshape(-1, mine.shape[-1])
        np.testing.assert_allclose(mine[:IMAGES], theirs, atol=1e-5 * largest)
        assert not mine[IMAGES:].any()
    for mine, theirs in zip(found_heads, heads, strict=True):
        np.testing.assert_allclose(mine.sum(0), theirs, atol=1e-5 * largest)


@ALL
def test_padding_beside_huge_scores(name: str) -> None:
    """Rows that fill up are 0, as the scores of an empty feature map are."""
    x = said()
    huge = arrays_of(x._replace(**{f: 1e4 * np.sign(getattr(x, f)) for f in x._fields[:4]}))
    terms, gradient = sharded(name, huge, 4, 0.0)
    np.testing.assert_allclose(terms.sum(), value_and_gradient(name)(huge)[0], rtol=1e-5)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves((terms, gradient)))
