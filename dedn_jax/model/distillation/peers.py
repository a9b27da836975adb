"""What the two experts say of a batch: the argument of every distillation objective."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dedn_jax.model import losses
from dedn_jax.model.experts import AttributeScores, PerExpert


class ClassScores(NamedTuple):
    """Class scores `[b, K]` of the coarse and of the fine expert."""

    coarse: Float[Array, "b K"]
    fine: Float[Array, "b K"]


class Peers(NamedTuple):
    """Both experts on the same images, as they are trained: branches added up. Made by `of`.

    Attributes:
      attributes: attribute scores `[b, A]` of each expert's branches, in group order.
      scores: class scores of each expert, d included.
      embeddings: Z, `[K, A]`, rows L2-normalised.
      seen: `[K]` bool.
      labels: `[b]` class ids.
      bias: magnitude of d, which class scores add on unseen and subtract on seen classes.
      group_sizes: number of attributes of each group, in group order.
      mean: the mean over images.
      dropped: attribute scores of the same images with regions dropped; None unless an objective
        needs them.
      heads: the auxiliary heads of `dual_head`, `[A, A]` for each expert; None for others.
    """

    attributes: PerExpert[AttributeScores]
    scores: ClassScores
    embeddings: Float[Array, "K A"]
    seen: Bool[Array, " K"]
    labels: Int[Array, " b"]
    bias: float
    group_sizes: tuple[int, ...]
    mean: losses.BatchMean = losses.MEAN
    dropped: PerExpert[AttributeScores] | None = None
    heads: PerExpert[Float[Array, "A A"]] | None = None

    @classmethod
    @jax.named_scope("losses")
    def of(
        cls,
        attributes: PerExpert[AttributeScores],
        embeddings: Float[Array, "K A"],
        seen: Bool[Array, " K"],
        labels: Int[Array, " b"],
        bias: float,
        group_sizes: tuple[int, ...],
        mean: losses.BatchMean = losses.MEAN,
        dropped: PerExpert[AttributeScores] | None = None,
        heads: PerExpert[Float[Array, "A A"]] | None = None,
    ) -> Peers:
        """With the class scores of the attribute scores, computed once."""
        scores = ClassScores(
            *(losses.class_scores(p.for_training(), embeddings, seen, bias) for p in attributes)
        )
        return cls(
            attributes, scores, embeddings, seen, labels, bias, group_sizes, mean, dropped, heads
        )

    def attribute_scores(self) -> PerExpert[Float[Array, "b A"]]:
        """p of each expert."""
        return PerExpert(*(p.for_training() for p in self.attributes))

    def class_scores(self, bias: bool = True) -> ClassScores:
        """s of each expert, with d or without."""
        return self.scores if bias else self.scores_of(self.attribute_scores())

    def scores_of(self, attribute_scores: PerExpert[Float[Array, "b A"]]) -> ClassScores:
        """Class scores of any attribute scores, without d."""
        return ClassScores(
            *(losses.class_scores(p, self.embeddings, self.seen, 0.0) for p in attribute_scores)
        )

    def group_scores(self) -> PerExpert[Float[Array, "groups b K"]]:
        """What each attribute group alone says of the classes: `p_g · Z_gᵀ`, without d."""
        ends = [sum(self.group_sizes[: i + 1]) for i in range(len(self.group_sizes))]
        z = jnp.split(self.embeddings, ends[:-1], axis=1)

        def of(p: Float[Array, "b A"]) -> Float[Array, "groups b K"]:
            parts = zip(jnp.split(p, ends[:-1], axis=1), z, strict=True)
            return jnp.stack(
                [jnp.matmul(p_g, z_g.T, preferred_element_type=jnp.float32) for p_g, z_g in parts]
            )

        return PerExpert(*map(of, self.attribute_scores()))


def hold(x: Float[Array, "*shape"], stopped: bool = True) -> Float[Array, "*shape"]:
    """`x` as a teacher: no gradient flows to it if `stopped`."""
    return jax.lax.stop_gradient(x) if stopped else x
