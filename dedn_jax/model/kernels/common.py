"""The interface of a platform's kernels."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Array, Float

# Score and attention rows, in the dtype of the maps.
Rows = tuple[Float[Array, "attributes dim"], Float[Array, "attributes dim"]]
Maps = Float[Array, "batch p q"]
# What is pooled, float32, and for the gradient two factors in the maps' dtype; none unless asked.
Pooled = tuple[Float[Array, "batch attributes"], tuple[Array, ...]]


class Backend(Protocol):
    """A platform's kernels: the modules `gpu` and `tpu`.

    Both compute `Σ β s` over positions with scores `s` and weights `β`, the softmax of the logits.
    With `keep` they return the derivatives that the gradient in the rows is linear in. With
    `interpret` they run in interpret mode, which any platform can.
    """

    def pool_p(self, rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
        """Positions along p, rows along q; keeps `β` and `β (s - Σ β s)`, `[batch, p, attributes]`
        each.
        """
        ...

    def pool_q(self, rows: Rows, maps: Maps, *, keep: bool, interpret: bool) -> Pooled:
        """Positions along q, rows along p; keeps `Σ β f` and `Σ β (s - Σ β s) f`,
        `[batch, p, attributes]` each.
        """
        ...

    def contract(
        self,
        kept: tuple[Float[Array, "batch p attributes"], ...],
        cotangent: Float[Array, "batch attributes"],
        *,
        interpret: bool,
    ) -> tuple[Float[Array, "p attributes"], ...]:
        """The gradient in the rows from what `pool_q` keeps: `Σ_b cotangent_ba kept_bpa`."""
        ...
