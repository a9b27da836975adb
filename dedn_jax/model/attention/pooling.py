"""Region and channel attention of the Dual Attention Network, as pure functions.

Both branches are one operation, `attention_pool`: for each attribute, the mean of its scores over
positions, weighted by a softmax. The region branch has regions as positions and channels as the
dimension; the channel branch is the same on the transposed map. `attention_weights` gives the
weights themselves, which training never materialises.

The word vectors enter only through the products V·H, so these are folded into rows first. The rows
of any number of attribute sets (both experts, all groups) are then stacked and pooled in one pass
over the feature map, where the published code makes one pass per matrix, expert and group.

Precision: bfloat16 features give bfloat16 products, forward and backward, accumulated in float32;
rows, softmax, results and gradients are float32. Other features are multiplied in float32, subject
to `jax.default_matmul_precision`.

Source: the DAN section of the DEDN paper (arXiv 2404.16348).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.attention import blocks, images
from dedn_jax.model.attention.blocks import Blocks
from dedn_jax.model.attention.indexed import IndexedMaps, as_array
from dedn_jax.model.attention.moves import swap_map_axes
from dedn_jax.model.attention.rows import BranchRows, as_factor
from dedn_jax.model.kernels import Kernel

# Images at once where XLA's own operations run on an accelerator. On a TPU by libtpu's schedule
# (`python -m benchmarks.schedule`): the scores of two images stay in vector memory. On a GPU every
# turn of a loop launches its operations anew, and the scores of few images fill its cache already.
_BLOCKS = {"tpu": Blocks(both=50, channel=2), "gpu": Blocks(both=50, channel=50)}


class AttentionWeights(NamedTuple):
    """Where each attribute looks, softmax weights that sum to 1 over the last axis.

    Attributes:
      region: `[batch, attributes, regions]`.
      channel: `[batch, attributes, channels]`.
    """

    region: Float[Array, "batch attributes regions"]
    channel: Float[Array, "batch attributes channels"]


def dual_attention(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"] | IndexedMaps,
    kernel: Kernel = "cpu",
) -> tuple[Float[Array, "batch attributes"] | None, Float[Array, "batch attributes"] | None]:
    """Attribute scores of both branches; None for a branch without rows, which is not computed.

    Args:
      region: rows of `[attributes, channels]`.
      channel: rows of `[attributes, regions]`.
      features: `[batch, channels, regions]`, L2-normalised over channels. Those that are still to
        be looked up have no gradient.
      kernel: see `kernels.resolve_kernel`.

    Returns:
      float32 `p_region` and `p_channel`, each `[batch, attributes]`.
    """
    if kernel in ("pallas", "pallas_gpu"):
        # Imported here: Pallas takes a second to import, and nothing else needs it.
        from dedn_jax.model.attention import fused

        if kernel == "pallas" and isinstance(features, IndexedMaps):
            return fused.indexed_attention(region, channel, features)
        return fused.dual_attention(region, channel, as_array(features))
    features = as_array(features)
    if kernel in _BLOCKS:
        return blocks.dual_attention(region, channel, features, _BLOCKS[kernel])
    if kernel == "cpu_bfloat16":
        features = features.astype(jnp.bfloat16)
    with jax.named_scope("region"):
        p_region = None if region is None else images.pool(region, features)
    if channel is None:
        return p_region, None
    with jax.named_scope("channel"):
        return p_region, images.pool(channel, swap_map_axes(features))


def dual_attention_weights(
    region: BranchRows | None,
    channel: BranchRows | None,
    features: Float[Array, "batch channels regions"],
) -> tuple[
    Float[Array, "batch attributes regions"] | None,
    Float[Array, "batch attributes channels"] | None,
]:
    """The attention weights of both branches, for the arguments of `dual_attention`."""
    transposed = jnp.swapaxes(features, 1, 2)
    return (
        None if region is None else attention_weights(region.attention, features),
        None if channel is None else attention_weights(channel.attention, transposed),
    )


def attention_weights(
    rows: Float[Array, "attributes dim"], features: Float[Array, "batch dim positions"]
) -> Float[Array, "batch attributes positions"]:
    """`softmax_p(attention_a · f_bp)` in float32: the weights that `attention_pool` sums with."""
    logits = jnp.einsum(
        "ad,bdp->bap", as_factor(rows, features), features, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits)


def attention_pool(
    rows: BranchRows,
    features: Float[Array, "batch dim positions"],
    kernel: Kernel = "cpu",
) -> Float[Array, "batch attributes"]:
    """`p[b, a] = Σ_p softmax_p(attention_a · f_bp) · (score_a · f_bp)`.

    Args:
      rows: score and attention rows, `[attributes, dim]` each.
      features: `[batch, dim, positions]`.
      kernel: see `kernels.resolve_kernel`.

    Returns:
      `[batch, attributes]` float32.
    """
    if kernel == "cpu":
        return images.pool(rows, features)
    pooled, _ = dual_attention(rows, None, features, kernel)
    assert pooled is not None
    return pooled
