"""Flax NNX modules that own the parameters of the two experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
)
from dedn_jax.model.attention.indexed import IndexedMaps
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.column_shards import ColumnShards
from dedn_jax.model.dual_attention import BRANCHES, DualAttention, branch_rows
from dedn_jax.model.groups import AttributeGroups, as_groups
from dedn_jax.model.kernels import Kernel, resolve_kernel

T = TypeVar("T")

# Of `config.model.experts`: what a choice leaves.
EXPERTS = {"both": ("coarse", "fine"), "coarse": ("coarse",), "fine": ("fine",)}


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
        features: jnp.dtype | None = None,
    ) -> ModelRows:
        """The rows of all networks, of this device's shards where they are sharded.

        Args:
          shards: of the rows.
          columns: how devices share the region branch's matrices; None: each has all of them.
          features: dtype of the features; rows are gathered in that in which they are multiplied.
        """
        # On a GPU few large products; elsewhere they cost more than they save (`parallel.packing`).
        sets = self._expert_sets()
        if self.kernel not in ("gpu", "pallas_gpu"):
            sets = [[net] for net in self._networks()]
        found = {
            branch: branch_rows(sets, branch, shards, columns, features)
            for branch in sets[0][0].branches
        }
        return ModelRows(found.get("region"), found.get("channel"))

    def pool(
        self,
        rows: ModelRows,
        features: Float[Array, "batch channels regions"] | IndexedMaps,
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
