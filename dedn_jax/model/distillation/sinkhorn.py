"""Optimal transport between the experts' outputs of a whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dedn_jax.model.distillation.peers import Peers


def sinkhorn(
    peers: Peers, *, temperature: float, epsilon: float, iterations: int
) -> Float[Array, ""]:
    """The Sinkhorn divergence of the experts' outputs, as two sets of points in the simplex.

    `OT(c, f) - [OT(c, c) + OT(f, f)] / 2`, where `OT` is the cost `⟨P, C⟩` of the entropic plan P
    between the rows of two batches, with `C_ij = ‖softmax(x_i/T) - softmax(y_j/T)‖₁` and equal
    masses. Both experts have the gradient.

    Source: Sinkhorn distance distillation, arXiv 2402.17110, whose batch-wise term is the first
    OT alone. That one is not 0 where the experts are equal, since a blurred plan moves mass between
    different images; the other two take this off (arXiv 1810.08278).

    Args:
      peers: both experts.
      temperature: T.
      epsilon: of the entropic regularisation, in units of the cost.
      iterations: of Sinkhorn's algorithm, in the log domain.
    """
    mean = peers.mean
    c, f = (mean.gather(jax.nn.softmax(s / temperature)) for s in peers.class_scores())
    log_mass = jnp.log(mean.gather(mean.weights)) if mean.weights is not None else jnp.zeros(len(c))
    log_mass -= jax.nn.logsumexp(log_mass)

    def transport(x: Float[Array, "b K"], y: Float[Array, "b K"]) -> Float[Array, ""]:
        return _transport_cost(_distances(x, y), log_mass, epsilon, iterations)

    return mean.share(transport(c, f) - 0.5 * (transport(c, c) + transport(f, f)))


def _distances(x: Float[Array, "n K"], y: Float[Array, "m K"]) -> Float[Array, "n m"]:
    """`‖x_i - y_j‖₁` of points in the simplex, with no slope where two of them are equal."""
    gap = jnp.abs(x[:, None] - y[None])
    # A compiled softmax may be computed again, and rounded otherwise, for each of its uses. Of a
    # point and itself a difference of rounding is left, whose sign would be the slope.
    return jnp.where(gap > 1e-5 * (x[:, None] + y[None]), gap, 0.0).sum(-1)


def _transport_cost(
    cost: Float[Array, "n n"], log_mass: Float[Array, " n"], epsilon: float, iterations: int
) -> Float[Array, ""]:
    """`⟨P, C⟩` of the entropic plan between two sets with the same masses, -inf for none."""

    def update(potential: Float[Array, " n"], cost: Float[Array, "n n"]) -> Float[Array, " n"]:
        return -epsilon * jax.nn.logsumexp((potential - cost) / epsilon + log_mass, axis=1)

    def iterate(
        potentials: tuple[Float[Array, " n"], Float[Array, " n"]], _: None
    ) -> tuple[tuple[Float[Array, " n"], Float[Array, " n"]], None]:
        f = update(potentials[1], cost)
        return (f, update(f, cost.T)), None

    zeros = jnp.zeros_like(log_mass)
    (f, g), _ = jax.lax.scan(iterate, (zeros, zeros), length=iterations)
    log_plan = (f[:, None] + g[None] - cost) / epsilon + log_mass[:, None] + log_mass[None]
    return (jnp.exp(log_plan) * cost).sum()
