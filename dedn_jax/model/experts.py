"""Flax NNX modules that own the parameters of the two experts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dedn_jax.model.attention import (
    AttentionWeights,
    BranchRows,
    dual_attention,
    dual_attention_weights,
    stack_rows,
)
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.column_shards import ColumnShards
from dedn_jax.model.folding import fold_together
from dedn_jax.model.groups import AttributeGroups, as_groups
from dedn_jax.model.kernels import Kernel, resolve_kernel

T = TypeVar("T")

# Of `config.model.experts` and `config.model.branches`: what a choice leaves.
EXPERTS = {"both": ("coarse", "fine"), "coarse": ("coarse",), "fine": ("fine",)}
BRANCHES = {"both": ("region", "channel"), "region": ("region",), "channel": ("channel",)}


class AttributeScores(NamedTuple):
    """Both branches of one expert, `[batch, attributes]` each, attributes in group order.

    0 for a branch, or an expert, that the model does not have.
    """

    region: Float[Array, "batch attributes"]
    channel: Float[Array, "batch attributes"]

    def for_training(self) -> Float[Array, "batch attributes"]:
        """`p = p_region + p_channel`."""
        return self.region + self.channel

    def for_evaluation(self, region_mix: float) -> Float[Array, "batch attributes"]:
        """`p = m·p_region + (1 - m)·p_channel`."""
        return region_mix * self.region + (1.0 - region_mix) * self.channel


class ModelRows(NamedTuple):
    """Folded matrices of all networks, the coarse expert's first; None without that branch."""

    region: BranchRows | None
    channel: BranchRows | None


class PerExpert(NamedTuple, Generic[T]):
    """What the coarse and the fine expert say, both with attributes in group order."""

    coarse: T
    fine: T


def is_folded(path: Sequence[object], _: object = None) -> bool:
    """Whether a parameter, by its path in a `DualExpert` or a model with `experts`, is folded.

    Folded ones enter the scores through `DualExpert.rows` alone. A filter of Flax.
    """
    own = path[1:] if path[0] == "experts" else path
    return own[0] in ("coarse", "fine")


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
            vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
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


def fold(
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


class DualExpert(nnx.Module):
    """The coarse expert (one DAN over all attributes) and the fine expert (one DAN per group).

    Source: the DEDN paper, arXiv 2404.16348.

    >>> import numpy as np
    >>> from flax import nnx
    >>> word_vectors = np.random.default_rng(0).normal(size=(5, 300))
    >>> groups = {"wing": [2, 3, 4], "head": [0, 1]}
    >>> model = DualExpert(word_vectors, groups, channels=16, regions=9, rngs=nnx.Rngs(0))
    >>> features = np.random.default_rng(1).random((2, 16, 3, 3))
    >>> features /= np.linalg.norm(features, axis=1, keepdims=True)
    >>> coarse, fine = model(features)
    >>> coarse.region.shape, model.group_order
    ((2, 5), (2, 3, 4, 0, 1))
    >>> scores, attention = model(features, return_attention=True)
    >>> attention.fine.region.shape, attention.fine.channel.shape
    ((2, 5, 9), (2, 5, 16))

    Args:
      word_vectors: `[attributes, word_dim]`; each DAN owns and trains a copy of its part.
      groups: the partition of the attributes: `AttributeGroups`, a mapping from names to attribute
        indices, or a string as in `config.data.groups`.
      channels: C of the feature maps.
      regions: R of the feature maps, height times width.
      rank: h of the low-rank region score matrices; 0 for full ones.
      rngs: random streams, `params` is used.
      kernel: of the attention pooling, from `dedn_jax.model.kernels.resolve_kernel`; None: XLA's
        own operations, as they suit the default JAX backend.
      experts: `both`, or `coarse` or `fine` alone; the scores of one that is missing are 0.
      branches: `both`, or `region` or `channel` alone, likewise.
      heads: add the auxiliary heads of the distillation objective `dual_head`, identities.

    Raises:
      InputError: `groups` is no partition of the attributes.
    """

    def __init__(
        self,
        word_vectors: Float[np.ndarray, "attributes word_dim"],
        groups: AttributeGroups | Mapping[str, Sequence[int]] | str,
        *,
        channels: int,
        regions: int,
        rank: int = 0,
        rngs: nnx.Rngs,
        kernel: Kernel | None = None,
        experts: Literal["both", "coarse", "fine"] = "both",
        branches: Literal["both", "region", "channel"] = "both",
        heads: bool = False,
    ) -> None:
        groups = as_groups(groups, word_vectors)
        self.kernel: Kernel = kernel or resolve_kernel(
            "xla", jax.default_backend(), (channels, regions)
        )
        self.group_order = tuple(groups.order.tolist())
        self.group_sizes = tuple(len(m) for m in groups.members)
        self.map_shape = channels, regions
        self.expert_names = EXPERTS[experts]

        def attention(members: Sequence[int] | slice) -> DualAttention:
            of = word_vectors[members]
            return DualAttention(of, channels, regions, rank, rngs, BRANCHES[branches])

        # Made even where it is not kept, so that the start of the fine expert is the same.
        coarse = attention(slice(None))
        if "coarse" in self.expert_names:
            self.coarse = coarse
        if "fine" in self.expert_names:
            self.fine = nnx.List(attention(list(m)) for m in groups.members)
        self.has_heads = heads
        if heads:
            n = len(self.group_order)
            # An array for each: a step that reuses the memory of its state takes none twice.
            self.heads = nnx.Dict({name: nnx.Param(jnp.eye(n)) for name in EXPERTS["both"]})

    @overload
    def __call__(
        self,
        features: Float[Array, "batch channels *regions"],
        shards: AttributeShards | None = None,
        *,
        return_attention: Literal[False] = False,
    ) -> PerExpert[AttributeScores]: ...

    @overload
    def __call__(
        self,
        features: Float[Array, "batch channels *regions"],
        shards: AttributeShards | None = None,
        *,
        return_attention: Literal[True],
    ) -> tuple[PerExpert[AttributeScores], PerExpert[AttentionWeights]]: ...

    def __call__(
        self,
        features: Float[Array, "batch channels *regions"],
        shards: AttributeShards | None = None,
        *,
        return_attention: bool = False,
    ) -> (
        PerExpert[AttributeScores] | tuple[PerExpert[AttributeScores], PerExpert[AttentionWeights]]
    ):
        """Attribute scores of both experts from one pass over the features.

        Args:
          features: `[batch, channels, regions]` or `[batch, channels, height, width]`, each region
            L2-normalised over channels.
          shards: how the attribute rows are sharded over devices; None where they are replicated.
          return_attention: also return the attention weights, `[batch, attributes, regions]` and
            `[batch, attributes, channels]` for each expert.

        Returns:
          Scores of the coarse and of the fine expert; with `return_attention` these and the
          attention weights. Attributes are in group order, `group_order`, for both experts.

        Raises:
          ValueError: features of another shape than the model was made for.
        """
        features = self.maps(features)
        by_expert = self.pool(self.rows(shards), features, shards)
        if not return_attention:
            return by_expert
        # For inspection, not for training: computed from all rows on every device.
        weights = dual_attention_weights(*self.rows(), features)
        channels, regions = self.map_shape
        split = (
            self._split(weights[0], features.shape[0], regions),
            self._split(weights[1], features.shape[0], channels),
        )
        return by_expert, PerExpert(*map(AttentionWeights, *split))

    @jax.named_scope("fold")
    def rows(
        self,
        shards: AttributeShards | None = None,
        columns: ColumnShards | None = None,
        factors: jnp.dtype | None = None,
    ) -> ModelRows:
        """The rows of all networks, of this device's shards where they are sharded.

        Args:
          shards: of the rows.
          columns: how devices share the region branch's matrices; None: each has all of them.
          factors: dtype in which rows are multiplied with features, and gathered.
        """
        # On a GPU few large products; elsewhere they cost more than they save (`parallel.packing`).
        sets = self._expert_sets()
        if self.kernel not in ("gpu", "pallas_gpu"):
            sets = [[net] for net in self._networks()]
        found = {
            branch: stack_rows([fold(nets, branch, shards) for nets in sets])
            if columns is None
            else self._exchanged_rows(branch, sets, shards, columns, factors)
            for branch in sets[0][0].branches
        }
        return ModelRows(found.get("region"), found.get("channel"))

    def _exchanged_rows(
        self,
        branch: str,
        sets: list[list[DualAttention]],
        shards: AttributeShards | None,
        columns: ColumnShards,
        factors: jnp.dtype | None,
    ) -> BranchRows:
        """Those of the networks in `sets`; devices exchange rows or matrices, the fewer numbers."""
        region = branch == "region"
        exchange = functools.partial(columns.gather, dtype=factors) if region else columns.sum
        networks = [net for nets in sets for net in nets]
        rows = 2 * sum(len(net.vectors(shards)) for net in networks)
        matrices = [net.matrices(branch) for net in networks]
        if rows >= sum(len(each.score[-1]) + len(each.attention) for each in matrices):
            return stack_rows([fold(nets, branch, shards, exchange) for nets in sets])
        # What devices fold is a part of the columns, or all of them on each.
        share = _unchanged if region else columns.shared
        folded = stack_rows([fold(nets, branch, shards, of_vectors=share) for nets in sets])
        return BranchRows(*map(exchange, folded))

    def pool(
        self,
        rows: ModelRows,
        features: Float[Array, "batch channels regions"],
        shards: AttributeShards | None = None,
    ) -> PerExpert[AttributeScores]:
        """Attribute scores by `rows`, those of `self.rows(shards)`, of maps of `self.maps`."""
        pooled = list(dual_attention(*rows, features, self.kernel))
        if shards is not None:
            sizes = [net.num_attributes for net in self._networks()]
            pooled = [None if p is None else shards.gather(p, sizes) for p in pooled]
        split = (self._split(p, features.shape[0]) for p in pooled)
        return PerExpert(*map(AttributeScores, *split))

    def maps(
        self, features: Float[Array, "batch channels *regions"]
    ) -> Float[Array, "batch channels regions"]:
        """The features, their regions along one axis.

        Raises:
          ValueError: features of another shape than the model was made for.
        """
        channels, regions = self.map_shape
        features = jnp.asarray(features)
        shape = features.shape
        if len(shape) == 4:
            features = features.reshape(*shape[:2], shape[2] * shape[3])
        if features.shape[1:] != (channels, regions):
            raise ValueError(
                f"features of shape {shape}, expected [batch, {channels}, {regions}] or "
                f"[batch, {channels}, height, width] with height * width = {regions}"
            )
        return features

    def head_matrices(self) -> PerExpert[Float[Array, "attributes attributes"]] | None:
        """The auxiliary heads of the distillation objective `dual_head`; None where it has none."""
        return PerExpert(*(self.heads[n][...] for n in EXPERTS["both"])) if self.has_heads else None

    def _expert_sets(self) -> list[list[DualAttention]]:
        """The coarse expert's network, then those of the fine one; those that the model has."""
        coarse = [[self.coarse]] if "coarse" in self.expert_names else []
        return [*coarse, *([list(self.fine)] if "fine" in self.expert_names else [])]

    def _networks(self) -> list[DualAttention]:
        return [net for nets in self._expert_sets() for net in nets]

    def _split(
        self, x: Float[Array, "batch rows *rest"] | None, batch: int, *rest: int
    ) -> PerExpert[Array]:
        """The rows of each expert, in group order; 0 where the model has none."""
        n = len(self.group_order)
        nothing = jnp.zeros((batch, n, *rest), jnp.float32)
        if x is None:
            return PerExpert(nothing, nothing)
        coarse = (
            x[:, :n][:, jnp.asarray(self.group_order)] if "coarse" in self.expert_names else nothing
        )
        return PerExpert(coarse, x[:, -n:] if "fine" in self.expert_names else nothing)
