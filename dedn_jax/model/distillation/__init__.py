"""How the experts teach each other: objectives by the names of `config.loss.distillation`.

>>> import jax.numpy as jnp
>>> coarse, fine = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]])
>>> f"{bidirectional_kl(coarse, fine):.4f}"
'0.7616'
>>> sorted(OBJECTIVES)[:4]
['agreement', 'balanced_kl', 'confident', 'decoupled']

To add one: a file with a pure function of `Peers`, whose keyword arguments are its fields in
`configs/base.py`, and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jaxtyping import Array, Float

from dedn_jax.model.distillation.agreement import agreement
from dedn_jax.model.distillation.balanced_kl import balanced_kl
from dedn_jax.model.distillation.confident import confident
from dedn_jax.model.distillation.decoupled import decoupled
from dedn_jax.model.distillation.dual_head import dual_head
from dedn_jax.model.distillation.js import js
from dedn_jax.model.distillation.kl import bidirectional_kl, kl
from dedn_jax.model.distillation.norm_direction import norm_direction
from dedn_jax.model.distillation.peers import Peers
from dedn_jax.model.distillation.relational import relational
from dedn_jax.model.distillation.selective import selective
from dedn_jax.model.distillation.sinkhorn import sinkhorn

OBJECTIVES: Final[dict[str, Callable[..., Float[Array, ""]]]] = {
    "agreement": agreement,
    "kl": kl,
    "js": js,
    "balanced_kl": balanced_kl,
    "selective": selective,
    "sinkhorn": sinkhorn,
    "decoupled": decoupled,
    "relational": relational,
    "norm_direction": norm_direction,
    "confident": confident,
    "dual_head": dual_head,
}

__all__ = ["OBJECTIVES", "Peers", "bidirectional_kl"]
