"""`config.loss.distillation`: which objectives are trained, how strongly, and from when on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from dedn_jax.config_ranges import distillation_names
from dedn_jax.model.distillation import OBJECTIVES, Peers

# Logged in every run, trained or not: cheap, and comparable between runs.
ALWAYS_LOGGED = ("agreement", "kl", "js")

# How fast the sigmoid-shaped ramp rises; Laine and Aila, arXiv 1610.02242.
_RAMP = 5.0


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The objectives between the experts.

    Attributes:
      weights: of those that are trained, by name.
      options: the keyword arguments of every objective.
      schedule: `constant`, `warmup` or `ramp`.
      schedule_steps: in which the weights rise to their values.
    """

    weights: dict[str, float]
    options: dict[str, dict[str, Any]]
    schedule: str
    schedule_steps: float

    @classmethod
    def from_config(cls, config: ConfigDict, steps_per_epoch: float) -> Distillation:
        section = config.loss.distillation.to_dict()
        options = {name: dict(section[name]) for name in OBJECTIVES}
        weights = {name: fields.pop("weight") for name, fields in options.items()}
        return cls(
            # A term of weight 0 is left out: where it is infinite, 0 · inf would be NaN.
            {n: weights[n] for n in distillation_names(section["name"]) if weights[n]},
            options,
            section["schedule"],
            section["schedule_epochs"] * steps_per_epoch,
        )

    @property
    def dropped_share(self) -> float:
        """Share of regions dropped in the second view; 0 where no objective needs one."""
        return self.options["confident"]["drop"] if "confident" in self.weights else 0.0

    def terms(self, peers: Peers) -> dict[str, Float[Array, ""]]:
        """Those that are trained, and those that are always logged, by name; without weights."""
        names = dict.fromkeys((*ALWAYS_LOGGED, *self.weights))
        return {name: OBJECTIVES[name](peers, **self.options[name]) for name in names}

    def factor(self, step: Int[Array, ""]) -> Float[Array, ""] | None:
        """What all weights are multiplied by in a step; None: they are constant.

        `warmup` rises linearly from 0, `ramp` as `exp(-5 (1 - t)²)` with t from 0 to 1.

        Args:
          step: number of steps taken before.
        """
        if self.schedule == "constant" or not self.weights:
            return None
        t = jnp.minimum((step + 1) / max(self.schedule_steps, 1.0), 1.0)
        return t if self.schedule == "warmup" else jnp.exp(-_RAMP * jnp.square(1.0 - t))
