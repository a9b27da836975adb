"""The exponential moving average of the parameters, in the state of the optimiser."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int


class Averaged(NamedTuple):
    """The state of `average_parameters`.

    Attributes:
      inner: of the optimiser.
      average: of the parameters after each step; before the first, the initial ones.
      steps: taken so far.
    """

    inner: optax.OptState
    average: Any
    steps: Int[Array, ""]


def average_parameters(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """`optimizer`, with the average of the parameters that it reaches in its state.

    After n steps the parameters of step i have the weight `(1 - d) dⁿ⁻ⁱ / (1 - dⁿ)`: those before
    the first step have none, as in `optax.ema` with its bias corrected.

    Args:
      optimizer: whose updates are passed on as they are.
      decay: d, above 0 and below 1.
    """

    def init(params: Any) -> Averaged:
        # A copy: a step reuses the memory of the parameters and of this state.
        average = jax.tree.map(jnp.copy, params)
        return Averaged(optimizer.init(params), average, jnp.zeros((), jnp.int32))

    inner_optimizer = optax.with_extra_args_support(optimizer)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, inner = inner_optimizer.update(updates, state.inner, params, **extra)
        steps = state.steps + 1
        share = (1.0 - decay) / -jnp.expm1(steps * np.log(decay))
        reached = optax.apply_updates(params, updates)
        average = optax.incremental_update(reached, state.average, share)
        return updates, Averaged(inner, average, steps)

    return optax.GradientTransformationExtraArgs(init, update)
