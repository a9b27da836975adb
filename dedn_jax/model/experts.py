"""Flax NNX modules that own the parameters of the two experts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.model.attention import BranchRows, dual_attention, stack_rows
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.groups import AttributeGroups


class AttributeScores(NamedTuple):
    """Both branches of one expert, `[batch, attributes]` each, attributes in group order."""

    region: jax.Array
    channel: jax.Array

    def for_training(self) -> jax.Array:
        """`p = p_region + p_channel`."""
        return self.region + self.channel

    def for_evaluation(self, region_mix: float) -> jax.Array:
        """`p = m·p_region + (1 - m)·p_channel`."""
        return region_mix * self.region + (1.0 - region_mix) * self.channel


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
    """

    def __init__(
        self, word_vectors: np.ndarray, channels: int, regions: int, rank: int, rngs: nnx.Rngs
    ) -> None:
        vectors = jnp.asarray(word_vectors, jnp.float32)
        word_dim = vectors.shape[1]

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))

        def zeros(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        self.low_rank = rank > 0
        self.word_vectors = nnx.Param(
            vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        )
        if self.low_rank:
            self.region_score_left = normal(word_dim, rank)
            self.region_score_right = normal(rank, channels)
        else:
            self.region_score = normal(word_dim, channels)
        self.region_attention = zeros(word_dim, channels)
        self.channel_score = normal(word_dim, regions)
        self.channel_attention = zeros(word_dim, regions)

    @property
    def attributes(self) -> int:
        """How many there are."""
        return self.word_vectors.shape[0]

    def fold(self, shards: AttributeShards | None = None) -> tuple[BranchRows, BranchRows]:
        """The products V·H: region rows `[attributes, channels]`, channel rows `[..., regions]`.

        With `shards` those of this device alone.
        """
        v = self.word_vectors[...]
        if shards is not None:
            v = shards.local(v)
        if self.low_rank:
            region_score = (v @ self.region_score_left[...]) @ self.region_score_right[...]
        else:
            region_score = v @ self.region_score[...]
        return (
            BranchRows(region_score, v @ self.region_attention[...]),
            BranchRows(v @ self.channel_score[...], v @ self.channel_attention[...]),
        )


class DualExpert(nnx.Module):
    """The coarse expert (one DAN over all attributes) and the fine expert (one DAN per group).

    Args:
      word_vectors: `[attributes, word_dim]`; each DAN owns and trains a copy of its part.
      groups: the partition of the attributes.
      channels: C of the feature maps.
      regions: R of the feature maps.
      rank: h of the low-rank region score matrices; 0 for full ones.
      rngs: random streams, `params` is used.
      kernel: of the attention pooling, see `dedn_jax.model.kernels.resolve_kernel`.
    """

    def __init__(
        self,
        word_vectors: np.ndarray,
        groups: AttributeGroups,
        *,
        channels: int,
        regions: int,
        rank: int,
        rngs: nnx.Rngs,
        kernel: Literal["xla", "pallas"] = "xla",
    ) -> None:
        self.kernel: Literal["xla", "pallas"] = kernel
        self.group_order = tuple(groups.order.tolist())
        self.coarse = DualAttention(word_vectors, channels, regions, rank, rngs)
        self.fine = nnx.List(
            DualAttention(word_vectors[list(m)], channels, regions, rank, rngs)
            for m in groups.members
        )

    def __call__(
        self, features: jax.Array, shards: AttributeShards | None = None
    ) -> tuple[AttributeScores, AttributeScores]:
        """Attribute scores of both experts from one pass over the features.

        Args:
          features: `[batch, channels, regions]`, L2-normalised over channels.
          shards: how the rows are shared out among devices; None where each has all of them.

        Returns:
          Scores of the coarse and of the fine expert, both in group order.
        """
        networks = [self.coarse, *self.fine]
        folded = [net.fold(shards) for net in networks]
        region = stack_rows([region for region, _ in folded])
        channel = stack_rows([channel for _, channel in folded])
        p_region, p_channel = dual_attention(region, channel, features, self.kernel)
        if shards is not None:
            sizes = [net.attributes for net in networks]
            p_region, p_channel = (shards.gather(p, sizes) for p in (p_region, p_channel))
        n = len(self.group_order)
        order = jnp.asarray(self.group_order)
        return (
            AttributeScores(p_region[:, :n][:, order], p_channel[:, :n][:, order]),
            AttributeScores(p_region[:, n:], p_channel[:, n:]),
        )
