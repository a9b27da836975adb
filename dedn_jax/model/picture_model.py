"""Backbone and experts as one module, from pictures to attribute scores."""

from __future__ import annotations

from typing import Literal, overload

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from dedn_jax.model.attention import AttentionWeights
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.backbones import Backbone
from dedn_jax.model.experts import AttributeScores, DualExpert, PerExpert
from dedn_jax.model.norms import MIN_NORM


def picture_maps(
    backbone: Backbone, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch rows columns channels"]:
    """Feature maps of pictures as grids of regions, without a class token."""
    return backbone.maps(backbone.preprocess(images))


def backbone_maps(
    backbone: Backbone, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch channels regions"]:
    """Feature maps of pictures, float32, not normalised."""
    return backbone(backbone.preprocess(images))


def normalize_regions(
    maps: Float[Array, "batch channels regions"],
) -> Float[Array, "batch channels regions"]:
    """Each region L2-normalised over channels, `x / max(‖x‖, 1e-12)`; differentiable at 0."""
    squares = jnp.square(maps).sum(axis=1, keepdims=True)
    # The square root is not differentiable at 0, the norm of an all-zero region.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return maps / jnp.where(squares > 0, jnp.maximum(norm, MIN_NORM), 1.0)


class PictureModel(nnx.Module):
    """A backbone and the experts on its feature maps, in one graph.

    Args:
      backbone: from pictures to feature maps.
      experts: from feature maps to attribute scores.
    """

    def __init__(self, backbone: Backbone, experts: DualExpert) -> None:
        self.backbone = backbone
        self.experts = experts

    def maps(
        self, images: UInt8[Array, "batch height width 3"]
    ) -> Float[Array, "batch channels regions"]:
        """Normalised feature maps of pictures, which the experts take."""
        return normalize_regions(backbone_maps(self.backbone, images))

    @overload
    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        shards: AttributeShards | None = None,
        *,
        return_attention: Literal[False] = False,
    ) -> PerExpert[AttributeScores]: ...

    @overload
    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        shards: AttributeShards | None = None,
        *,
        return_attention: Literal[True],
    ) -> tuple[PerExpert[AttributeScores], PerExpert[AttentionWeights]]: ...

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        shards: AttributeShards | None = None,
        *,
        return_attention: bool = False,
    ) -> (
        PerExpert[AttributeScores] | tuple[PerExpert[AttributeScores], PerExpert[AttentionWeights]]
    ):
        """As `DualExpert`, from pictures."""
        features = self.maps(images)
        if return_attention:
            return self.experts(features, shards, return_attention=True)
        return self.experts(features, shards)
