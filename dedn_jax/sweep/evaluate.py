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
from dedn_jax.evaluate import EXPERTS, Metrics
from dedn_jax.feature_table import FeatureTable, look_up
from dedn_jax.feed import Feed
from dedn_jax.groups import AttributeGroups
from dedn_jax.metrics import gzsl_metrics, per_class_accuracy
from dedn_jax.network import Network
from dedn_jax.step import Mixing, make_class_space, predict_scores
from dedn_jax.sweep.place import WHOLE, Place, each_model


class Evaluation:
    """Evaluates stacked models on a task's images.

    Args:
      network: the models' definition.
      task: images and classes.
      groups: attribute groups of the models.
      config: of the point.
      feed: what batches are made of.
      place: of the models.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        groups: AttributeGroups,
        config: ConfigDict,
        feed: Feed,
        place: Place,
    ) -> None:
        self._task, self._feed, self._place = task, feed, place
        self._batch_size = config.evaluate.batch_size
        classes = make_class_space(task.class_embeddings, task.seen, groups)
        self._fixed = place.share((classes, network.frozen))
        mixing = Mixing.from_config(config)

        def predict(
            params: nnx.State, inputs: jax.Array, fixed: tuple, table: FeatureTable | None
        ) -> tuple[jax.Array, jax.Array]:
            classes, frozen = fixed
            inputs = look_up(table, inputs)

            def one(params: nnx.State) -> jax.Array:
                scores = predict_scores(network.definition, params, inputs, classes, mixing, frozen)
                return jnp.stack(scores)

            scores = each_model(one)(params)
            among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
            return scores.argmax(-1), among_unseen.argmax(-1)

        by_model: PartitionSpec = place.by_model
        self._predict = place.compile(
            predict, (by_model, WHOLE, WHOLE, WHOLE), (by_model, by_model)
        )

    def __call__(self, params: nnx.State, which: np.ndarray) -> list[Metrics | None]:
        """What `dedn_jax.evaluate.evaluate_task` returns for one, of every model.

        Args:
          params: stacked.
          which: `[models]` bool; None stands for the others. Without any, nothing is read.
        """
        if not which.any():
            return [None] * len(which)
        found = self._evaluate(params)
        return [one if wanted else None for one, wanted in zip(found, which, strict=True)]

    def _evaluate(self, params: nnx.State) -> list[Metrics]:
        task = self._task
        seen, _ = self._choices(params, task.eval_seen)
        seen_labels = task.labels[task.eval_seen]
        if not len(task.eval_unseen):
            return [
                {name: {"S": per_class_accuracy(m[i], seen_labels)} for i, name in _EXPERTS}
                for m in seen
            ]
        unseen, zsl = self._choices(params, task.eval_unseen)
        unseen_labels = task.labels[task.eval_unseen]
        return [
            {
                name: gzsl_metrics(s[i], seen_labels, u[i], unseen_labels, z[i])
                for i, name in _EXPERTS
            }
            for s, u, z in zip(seen, unseen, zsl, strict=True)
        ]

    def _choices(self, params: nnx.State, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`[models, 3, images]` class ids: among all classes, and among the unseen alone."""
        gzsl, zsl = [], []
        inputs, table = self._feed
        for batch, count in evaluation_batches(inputs, images, self._batch_size):
            among_all, among_unseen = self._predict(
                params, self._place.share(batch), self._fixed, table
            )
            gzsl.append(np.asarray(among_all)[..., :count])
            zsl.append(np.asarray(among_unseen)[..., :count])
        return np.concatenate(gzsl, axis=-1), np.concatenate(zsl, axis=-1)


_EXPERTS = list(enumerate(EXPERTS))
