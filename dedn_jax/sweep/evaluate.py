"""U, S, H and T1 of many models, whose images are read once for all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import evaluation_batches
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.resident.features import ResidentFeatures, lookup
from dedn_jax.sweep.place import REPLICATED, Place, each_model
from dedn_jax.training.evaluation import (
    EXPERTS,
    Metrics,
    ShouldStop,
    batches_of,
    in_order,
    never_stop,
    task_metrics,
)
from dedn_jax.training.interrupt import Stopped
from dedn_jax.training.network import Network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.prediction import Mixing, predict_scores


class Evaluation:
    """Evaluates stacked models on a task's images.

    Args:
      network: the models' definition.
      task: images and classes.
      groups: attribute groups of the models.
      config: of the point.
      table: as in `dedn_jax.training.loop.Phase`.
      place: of the models.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        groups: AttributeGroups,
        config: ConfigDict,
        table: ResidentFeatures | None,
        place: Place,
    ) -> None:
        self._task, self._table, self._place = task, table, place
        self._batch_size = config.evaluate.batch_size
        classes = make_class_space(task.class_embeddings, task.seen, groups)
        self._fixed = place.share((classes, network.frozen))
        mixing = Mixing.from_config(config)

        def predict(
            params: nnx.State, inputs: jax.Array, fixed: tuple
        ) -> tuple[jax.Array, jax.Array]:
            classes, frozen = fixed

            def one(params: nnx.State) -> jax.Array:
                scores = predict_scores(network.definition, params, inputs, classes, mixing, frozen)
                return jnp.stack(scores)

            scores = each_model(one)(params)
            among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
            return scores.argmax(-1), among_unseen.argmax(-1)

        def predict_all(
            params: nnx.State, images: jax.Array, fixed: tuple, table: ResidentFeatures
        ) -> tuple[jax.Array, jax.Array]:
            return jax.lax.map(lambda i: predict(params, lookup(table, i), fixed), images)

        by_model: PartitionSpec = place.by_model
        if table is None:
            self._predict = place.compile(
                predict, (by_model, REPLICATED, REPLICATED), (by_model, by_model)
            )
        else:
            out = place.by_step_and_model
            self._predict = place.compile(
                predict_all, (by_model, REPLICATED, REPLICATED, REPLICATED), (out, out)
            )

    def __call__(
        self, params: nnx.State, which: np.ndarray, asked: ShouldStop = never_stop
    ) -> list[Metrics | None]:
        """What `dedn_jax.training.evaluation.evaluate_task` returns for one, of every model.

        Args:
          params: stacked.
          which: `[models]` bool; None stands for the others. Without any, nothing is read.
          asked: as there.

        Raises:
          Stopped: as there.
        """
        if not which.any():
            return [None] * len(which)
        found = self._evaluate(params, asked)
        return [one if wanted else None for one, wanted in zip(found, which, strict=True)]

    def _evaluate(self, params: nnx.State, asked: ShouldStop) -> list[Metrics]:
        return [
            {name: task_metrics(self._task, g[i], z[i]) for i, name in enumerate(EXPERTS)}
            for g, z in zip(*self._choices(params, asked), strict=True)
        ]

    def _choices(self, params: nnx.State, asked: ShouldStop) -> tuple[np.ndarray, ...]:
        """`[models, 3, images]` class ids: among all classes, and among the unseen alone."""
        task, size, share = self._task, self._batch_size, self._place.share
        images = np.concatenate([task.eval_seen, task.eval_unseen])
        if self._table is not None:
            indices = share(batches_of(images, size, size))
            found = self._predict(params, indices, self._fixed, self._table)
            return tuple(in_order(x, size, len(images)) for x in found)
        parts = []
        for batch, count in evaluation_batches(task.inputs, images, size):
            found = self._predict(params, share(batch), self._fixed)
            parts.append([np.asarray(x)[..., :count] for x in found])
            if len(parts) * size < len(images) and (signal := asked(len(parts))):
                raise Stopped(signal)
        return tuple(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))
