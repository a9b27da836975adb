"""Backbone and experts as one module: from pictures to attribute scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.backbones import Backbone
from dedn_jax.model.experts import AttributeScores, DualExpert

_MIN_NORM = 1e-12  # as in `dedn_jax.data.features.maps.normalize`: an all-zero region stays zero


def backbone_maps(backbone: Backbone, images: jax.Array) -> jax.Array:
    """Feature maps `[batch, channels, regions]` float32 of `[batch, height, width, 3]` uint8."""
    return backbone(backbone.preprocess(images))


def normalize_regions(maps: jax.Array) -> jax.Array:
    """`x / max(||x||, 1e-12)` over channels: of `[batch, channels, regions]`, differentiable."""
    squares = jnp.square(maps).sum(axis=1, keepdims=True)
    # The square root has no gradient at 0, where a region is all zero.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return maps / jnp.where(squares > 0, jnp.maximum(norm, _MIN_NORM), 1.0)


class PictureModel(nnx.Module):
    """The experts on feature maps made in the same graph.

    Args:
      backbone: from pictures to feature maps.
      experts: from feature maps to attribute scores.
    """

    def __init__(self, backbone: Backbone, experts: DualExpert) -> None:
        self.backbone = backbone
        self.experts = experts

    def __call__(
        self, images: jax.Array, shards: AttributeShards | None = None
    ) -> tuple[AttributeScores, AttributeScores]:
        """As `DualExpert`, from `[batch, height, width, 3]` uint8 pictures."""
        return self.experts(normalize_regions(backbone_maps(self.backbone, images)), shards)
