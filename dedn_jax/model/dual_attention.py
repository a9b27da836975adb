"""The Dual Attention Network over one set of attributes: its parameters, and how they fold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dedn_jax.model.attention import BranchRows, factor_dtype, stack_rows
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.column_shards import ColumnShards
from dedn_jax.model.folding import fold_together
from dedn_jax.model.norms import MIN_NORM

# Of `config.model.branches`: what a choice leaves.
BRANCHES = {"both": ("region", "channel"), "region": ("region",), "channel": ("channel",)}


class BranchMatrices(NamedTuple):
    """Learned matrices of one branch of one network.

    Attributes:
      score: `[word_dim, dim]`, or the factors `[word_dim, rank]` and `[rank, dim]`.
      attention: `[word_dim, dim]`.
    """

    score: tuple[Float[Array, "_ _"], ...]
    attention: Float[Array, "word_dim dim"]

    def with_columns(self, of: Callable[[Array], Array]) -> BranchMatrices:
        """With `of` applied to those that have columns of `dim`."""
        *left, last = self.score
        return BranchMatrices((*left, of(last)), of(self.attention))


def _unchanged(x: Array) -> Array:
    return x


class DualAttention(nnx.Module):
    """The learned matrices of a Dual Attention Network over one set of attributes.

    Score matrices start at N(0, 1), attention matrices at zero (uniform attention), word vectors at
    their L2-normalised input, as published.

    Args:
      word_vectors: `[attributes, word_dim]`.
      channels: C of the feature maps.
      regions: R of the feature maps.
      rank: h of the low-rank region score matrix (SUN); 0 for a full matrix.
      rngs: the stream `params` is used.
      branches: names of those it has; the start of each does not depend on the other.
    """

    def __init__(
        self,
        word_vectors: Float[np.ndarray, "attributes word_dim"],
        channels: int,
        regions: int,
        rank: int,
        rngs: nnx.Rngs,
        branches: Sequence[str] = BRANCHES["both"],
    ) -> None:
        vectors = jnp.asarray(word_vectors, jnp.float32)
        word_dim = vectors.shape[1]
        score_keys = [rngs.params() for _ in range(3 if rank else 2)]

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(score_keys.pop(0), shape, jnp.float32))

        def zeros(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        self.low_rank = rank > 0
        self.word_vectors = nnx.Param(
            vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), MIN_NORM)
        )
        self.branches = tuple(branches)
        if "region" in branches:
            if self.low_rank:
                self.region_score_left = normal(word_dim, rank)
                self.region_score_right = normal(rank, channels)
            else:
                self.region_score = normal(word_dim, channels)
            self.region_attention = zeros(word_dim, channels)
        if "channel" in branches:
            key = score_keys[-1]
            self.channel_score = nnx.Param(jax.random.normal(key, (word_dim, regions), jnp.float32))
            self.channel_attention = zeros(word_dim, regions)

    @property
    def num_attributes(self) -> int:
        return self.word_vectors.shape[0]

    def matrices(self, branch: str) -> BranchMatrices:
        """What the branch's rows are V times; a low-rank score matrix as its two factors."""
        if branch == "channel":
            return BranchMatrices((self.channel_score[...],), self.channel_attention[...])
        if self.low_rank:
            score = self.region_score_left[...], self.region_score_right[...]
            return BranchMatrices(score, self.region_attention[...])
        return BranchMatrices((self.region_score[...],), self.region_attention[...])

    def vectors(self, shards: AttributeShards | None = None) -> Float[Array, "attributes word_dim"]:
        """The word vectors; with `shards` those of this device's shard alone."""
        v = self.word_vectors[...]
        return v if shards is None else shards.local(v)


def _fold(
    networks: Sequence[DualAttention],
    branch: str,
    shards: AttributeShards | None = None,
    of_matrices: Callable[[Array], Array] = _unchanged,
    of_vectors: Callable[[Array], Array] = _unchanged,
) -> BranchRows:
    """The products V·H of a branch, networks one below the other.

    Args:
      networks: of one shape.
      branch: its name.
      shards: of the rows, of which this device's are folded alone; None: all are.
      of_matrices: applied to every matrix with columns of `dim` before.
      of_vectors: applied to the word vectors before.
    """
    vectors = [of_vectors(net.vectors(shards)) for net in networks]
    matrices = [net.matrices(branch).with_columns(of_matrices) for net in networks]
    if len(networks) == 1:
        ((v,), (h,)) = vectors, matrices
        return BranchRows(functools.reduce(jnp.matmul, h.score, v), v @ h.attention)
    scores = zip(*(h.score for h in matrices), strict=True)
    return BranchRows(
        fold_together(vectors, *scores),
        fold_together(vectors, [h.attention for h in matrices]),
    )


def branch_rows(
    sets: list[list[DualAttention]],
    branch: str,
    shards: AttributeShards | None = None,
    columns: ColumnShards | None = None,
    features: jnp.dtype | None = None,
) -> BranchRows:
    """The rows of a branch, of all networks one below the other.

    Devices that share columns exchange the rows or the matrices, the fewer numbers.

    Args:
      sets: networks, those of a set folded in one product.
      branch: its name.
      shards: of the rows, of which this device's are folded alone; None: all are.
      columns: how devices share the region branch's matrices; None: each has all of them.
      features: dtype of the features that gathered rows are multiplied with; None: that of rows.
    """
    if columns is None:
        return stack_rows([_fold(nets, branch, shards) for nets in sets])
    region = branch == "region"
    exchange: Callable[[Array], Array] = columns.sum
    if region:
        exchange = functools.partial(columns.gather, dtype=factor_dtype(features))
    networks = [net for nets in sets for net in nets]
    rows = 2 * sum(len(net.vectors(shards)) for net in networks)
    matrices = [net.matrices(branch) for net in networks]
    if rows >= sum(len(each.score[-1]) + len(each.attention) for each in matrices):
        return stack_rows([_fold(nets, branch, shards, exchange) for nets in sets])
    # What devices fold is a part of the columns, or all of them on each.
    share = _unchanged if region else columns.shared
    folded = stack_rows([_fold(nets, branch, shards, of_vectors=share) for nets in sets])
    return BranchRows(*map(exchange, folded))
