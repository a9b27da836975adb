"""U, S, H and T1 of many models, whose images are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from dedn_jax.parallel.mesh import REPLICATED
from dedn_jax.sweep.layout import ModelLayout, each_model
from dedn_jax.training.evaluation import (
    Evaluator,
    Metrics,
    ShouldStop,
    never_stop,
    over_batches,
)


class ModelsEvaluator(Evaluator[ModelLayout]):
    """Evaluates stacked models on a task's images."""

    def of_models(
        self, params: nnx.State, active: np.ndarray, should_stop: ShouldStop = never_stop
    ) -> list[Metrics | None]:
        """The metrics of every model, as a call gives them for one.

        Args:
          params: stacked.
          active: `[models]` bool; None stands for the others. If all are False nothing is read.
          should_stop: as for one.

        Raises:
          Stopped: as for one.
        """
        if not active.any():
            return [None] * len(active)
        of_models = zip(*self.predictions(params, self.images, should_stop), active, strict=True)
        return [self._metrics(a, u) if is_active else None for a, u, is_active in of_models]

    def _compile(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        layout, predict = self._layout, each_model(predict)
        specs = (layout.by_model, REPLICATED, REPLICATED)
        if self._features is None:
            return layout.compile(predict, specs, (layout.by_model, layout.by_model))
        out = layout.by_step_and_model
        return layout.compile(over_batches(predict), (*specs, REPLICATED), (out, out))
