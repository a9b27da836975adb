"""The experts agree on how images, and attributes, are related to one another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dedn_jax.model.distillation.divergence import kl_rows
from dedn_jax.model.distillation.peers import Peers


def relational(
    peers: Peers, *, temperature: float, image_weight: float, attribute_weight: float
) -> Float[Array, ""]:
    """Symmetric KL between the edges of the experts' graphs over images and over attributes.

    An edge is the cosine of two images' attribute scores, or of two attributes' scores over the
    batch. Each node's edges to all others, divided by T, go through a softmax; the divergence in
    both directions is averaged over the nodes, and the graphs added up with their weights.

    Source: token-level relationship graph, arXiv 2306.12442. Its tokens are patches of images,
    here attributes; its graph keeps the nearest neighbours among thousands of tokens, here the
    graph is small and whole; its contrastive term across experts is left out.

    Args:
      peers: both experts.
      temperature: T of the softmax over edges.
      image_weight: of the graph over the images of the batch.
      attribute_weight: of the graph over attributes.

    Returns:
      In nats.
    """
    mean = peers.mean
    coarse, fine = (mean.gather(p) for p in peers.attribute_scores())
    weights = jnp.ones(len(coarse)) if mean.weights is None else mean.gather(mean.weights)
    total = jnp.float32(0)
    if image_weight:
        present = weights > 0
        rows = _graph_divergence(coarse, fine, present, temperature)
        total += image_weight * (rows * weights).sum() / weights.sum()
    if attribute_weight:
        # Rows that pad the batch must not take part in the cosines.
        x, y = ((p * weights[:, None]).T for p in (coarse, fine))
        every = jnp.ones(coarse.shape[1], bool)
        total += attribute_weight * _graph_divergence(x, y, every, temperature).mean()
    return mean.share(total)


def _graph_divergence(
    x: Float[Array, "n dim"], y: Float[Array, "n dim"], present: Bool[Array, " n"], t: float
) -> Float[Array, " n"]:
    """Of each node, the divergence in both directions between its edges in two graphs."""
    # A finite stand-in for -inf: its softmax is 0 as well, and 0 · (a - a) stays 0.
    off = ~present[None] | jnp.eye(len(x), dtype=bool)
    a, b = (jnp.where(off, -1e9, _cosines(z) / t) for z in (x, y))
    return kl_rows(a, b, 1.0) + kl_rows(b, a, 1.0)


def _cosines(x: Float[Array, "n dim"]) -> Float[Array, "n n"]:
    # Divided by the largest entry first: squares of scores near 1e20 would overflow.
    x = x / jax.lax.stop_gradient(jnp.maximum(jnp.abs(x).max(), 1e-12))
    unit = x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
    return unit @ unit.T
