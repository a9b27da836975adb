"""U, S, H, T1 and AUSUC of many models, whose images are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
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
from dedn_jax.training.scores import Scores


class ModelsEvaluator(Evaluator[ModelLayout]):
    """Evaluates stacked models on a task's images."""

    _row_axis = 1

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
        found = self.choices(params, self.images, should_stop)
        return [one and self._metrics(one) for one in _each(found, active)]

    def scores_of_models(
        self, params: nnx.State, active: np.ndarray, should_stop: ShouldStop = never_stop
    ) -> list[tuple[Metrics, Scores] | None]:
        """Metrics and scores of every model, as `with_scores` gives them for one.

        Args:
          params, active, should_stop: as for `of_models`.

        Raises:
          Stopped: as for one.
        """
        if not active.any():
            return [None] * len(active)
        found = self._over_images(self._score, params, self.images, should_stop)
        return [
            one and (self._metrics(one[0]), self._scores(one[1])) for one in _each(found, active)
        ]

    def _compile(self, of_batch: Callable[..., Any]) -> Callable[..., Any]:
        layout, of_batch = self._layout, each_model(of_batch)
        specs = (layout.by_model, REPLICATED, REPLICATED)
        if self._features is None:
            return layout.compile(of_batch, specs, layout.by_model, read=REPLICATED)
        out = layout.by_step_and_model
        of_all = over_batches(of_batch)
        return layout.compile(of_all, (*specs, REPLICATED), out, read=REPLICATED)


def _each(stacked: Any, active: np.ndarray) -> list[Any]:
    """The results of every model that is active; None for the others."""

    def of(model: int) -> Any:
        return jax.tree.map(lambda x: x[model], stacked)

    return [of(m) if is_active else None for m, is_active in enumerate(active)]
