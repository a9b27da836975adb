"""U, S, H and T1 of many models, whose images are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from dedn_jax.parallel.mesh import REPLICATED
from dedn_jax.sweep.layout import ModelLayout, each_model
from dedn_jax.training.evaluation import (
    EXPERTS,
    Evaluator,
    Metrics,
    ShouldStop,
    never_stop,
    over_batches,
    task_metrics,
)


class ModelsEvaluator(Evaluator):
    """Evaluates stacked models on a task's images.

    Args:
      layout: of the models.
      arguments: as for one model, without the layout.
    """

    def __init__(self, layout: ModelLayout, *arguments: Any) -> None:
        self._models = layout
        network, task, groups, config, features = arguments
        super().__init__(network, task, groups, config, layout, features)

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
        among_all, among_unseen = self.predictions(params, self.images, should_stop)

        def metrics(model: int) -> Metrics:
            pairs = zip(EXPERTS, among_all[model], among_unseen[model], strict=True)
            return {name: task_metrics(self.task, a, u) for name, a, u in pairs}

        return [metrics(model) if is_active else None for model, is_active in enumerate(active)]

    def _compile(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        layout, predict = self._models, each_model(predict)
        specs = (layout.by_model, REPLICATED, REPLICATED)
        if self._features is None:
            return layout.compile(predict, specs, (layout.by_model, layout.by_model))
        out = layout.by_step_and_model
        return layout.compile(over_batches(predict), (*specs, REPLICATED), (out, out))
