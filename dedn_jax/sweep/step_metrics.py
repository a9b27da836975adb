"""The metrics of many models' steps, and the models that diverge.

A step after which loss, gradient or parameters are not finite does not count for its model: the
model keeps the state from before it and takes no later step. Its own step number, which lies in the
state and in every checkpoint, then stays behind that of the phase: that is the mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dedn_jax.parallel.mesh import on_host
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.step import TrainState


def all_finite(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """`[models]` bool, from the metrics `[models]` of a step."""
    watched = [metrics[name] for name in ("loss", "gradient_norm", "parameter_norm")]
    return jnp.isfinite(jnp.stack(watched)).all(0)


class ModelsMetrics:
    """The `Monitor` of many models; waits for the device where something is due.

    Args:
      schedule: which steps are logged.
      taken: `[models]` steps that each has taken.
      step: steps of the phase so far.
      ends: `[models]` steps to take.
      write: takes a logged step, its metrics (lists over the models, None for those that did not
        take it), and the mean loss.
      say_diverged: takes the models that have newly diverged, with their steps, and how many go on.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        taken: np.ndarray,
        step: int,
        ends: np.ndarray,
        write: Callable[[int, dict[str, Any], float], None],
        say_diverged: Callable[[dict[int, int], int], None],
    ) -> None:
        self._schedule, self._ends = schedule, ends
        self._write, self._say_diverged = write, say_diverged
        self._step, self._taken = step, np.asarray(taken)
        self._call: tuple[int, int, TrainState, Any] | None = None

    def add(self, first: int, count: int, state: TrainState, metrics: Any) -> None:
        self._call = first, count, state, metrics
        if any(map(self._schedule.logs, range(first, first + count))):
            self.settle()

    def settle(self) -> None:
        if self._call is None:
            return
        (first, count, state, metrics), self._call = self._call, None
        before = self.diverged_at
        self._taken, self._step = on_host(state.step), first + count - 1
        pairs = enumerate(zip(before, self.diverged_at, strict=True))
        diverged = {model: at for model, (known, at) in pairs if at is not None and known is None}
        if diverged:
            self._say_diverged(diverged, self.diverged_at.count(None))
        for step in filter(self._schedule.logs, range(first, first + count)):
            # No line of steps that no model took: an interrupted phase may read earlier, and see
            # earlier that all models have diverged.
            if (active := self.active(step)).any():
                values = {k: np.asarray(v)[step - first].astype(float) for k, v in metrics.items()}
                lists = {
                    k: [float(x) if a else None for x, a in zip(v, active, strict=True)]
                    for k, v in values.items()
                }
                self._write(step, lists, values["loss"][active].mean())

    @property
    def steps(self) -> np.ndarray:
        """`[models]` steps that each has taken."""
        return self._taken

    def active(self, step: int) -> np.ndarray:
        return step <= self._taken

    def finished(self, step: int) -> bool:
        return not ((self._taken == self._step) & (self._taken < self._ends)).any()

    @property
    def diverged_at(self) -> list[int | None]:
        """For every model the step, from 1, that it could not take; None where there is none."""
        behind = self._taken < np.minimum(self._step, self._ends)
        return [int(n) + 1 if b else None for n, b in zip(self._taken, behind, strict=True)]
