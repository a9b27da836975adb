"""Models whose loss, gradient or parameters stop being finite.

A step after which one of these is not finite does not count for its model: the model keeps the
state from before it and takes no later step. Its own step number, which lies in the state and in
every checkpoint, then stays behind that of the phase: that is the mark.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


def all_finite(terms: Mapping[str, jax.Array]) -> jax.Array:
    """`[models]` bool, from the metrics `[models]` of a step."""
    watched = [terms[name] for name in ("loss", "gradient_norm", "parameter_norm")]
    return jnp.isfinite(jnp.stack(watched)).all(0)


class StepsTaken:
    """How many steps every model has taken, as last looked at.

    Args:
      taken: `[models]`.
      step: steps of the phase so far.
      ends: `[models]` steps to take.

    Attributes:
      each: `[models]`.
    """

    def __init__(self, taken: jax.Array, step: int, ends: np.ndarray) -> None:
        self.each, self._step, self._ends = np.asarray(taken), step, ends

    def look(self, taken: jax.Array, step: int) -> dict[int, int]:
        """Waits for the device.

        Returns:
          Models that have diverged since the last look, and at which step.
        """
        before = self.diverged_at
        self.each, self._step = np.asarray(taken), step
        now = enumerate(zip(before, self.diverged_at, strict=True))
        return {model: at for model, (known, at) in now if at is not None and known is None}

    @property
    def over(self) -> bool:
        """Whether no model has a step left that it can take."""
        return not ((self.each == self._step) & (self.each < self._ends)).any()

    @property
    def diverged_at(self) -> list[int | None]:
        """For every model the step, from 1, that it could not take; None where there is none."""
        behind = self.each < np.minimum(self._step, self._ends)
        return [int(n) + 1 if b else None for n, b in zip(self.each, behind, strict=True)]
