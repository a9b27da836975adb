"""Which step's parameters a phase selects."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dedn_jax.training.evaluation import AUSUC, Metrics

# Under `jit`: parameters may lie on devices of other processes.
copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

# Of the fused score, by `config.selection.metric`.
METRIC_KEYS = {"harmonic_mean": "H", "t1": "T1", "ausuc": AUSUC}


class Selection:
    """The best evaluation so far, by the fused score.

    Args:
      metric: `harmonic_mean`, `t1` or `ausuc`.
      params: selected before the first evaluation.

    Attributes:
      params: the selected parameters.
      best: JSON-ready: `step` and `metrics` of the selected parameters, and `t1`: the best T1 with
        its own step.
    """

    def __init__(self, metric: str, params: nnx.State) -> None:
        self._key = METRIC_KEYS[metric]
        self.params = params
        self.best: dict[str, Any] = {"step": 0, "metrics": None, "t1": None}

    def update(self, step: int, metrics: Metrics, params: nnx.State) -> None:
        """Selects a copy of `params` if they are better than all before."""
        best, fused = self.best, metrics["fused"]
        if best["t1"] is None or fused["T1"] > best["t1"]["T1"]:
            best["t1"] = {"T1": fused["T1"], "step": step}
        # While the best is 0 nothing was learned yet, and a later step is the better guess.
        so_far = best["metrics"]["fused"][self._key] if best["metrics"] else 0.0
        if fused[self._key] > so_far or so_far == 0:
            best["step"], best["metrics"] = step, metrics
            self.params = copied(params)

    def select(self, step: int, params: nnx.State) -> None:
        """Selects `params` without an evaluation."""
        self.best["step"], self.params = step, params

    def __str__(self) -> str:
        metrics, step = self.best["metrics"], self.best["step"]
        if not metrics:
            return ""
        digits = 3 if self._key == AUSUC else 1
        return f"best {self._key} {metrics['fused'][self._key]:.{digits}f} at {step}"
