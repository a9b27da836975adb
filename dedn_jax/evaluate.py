"""U, S, H and T1 of each expert and of their mixture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import evaluation_batches
from dedn_jax.metrics import gzsl_metrics
from dedn_jax.step import ClassSpace, Mixing, predict_scores

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")
Metrics = dict[str, dict[str, float]]
Predictor = Callable[[nnx.State, jax.Array, ClassSpace], tuple[jax.Array, jax.Array]]


def make_predictor(model: nnx.GraphDef, mixing: Mixing) -> Predictor:
    """A compiled `(params, features, classes) -> (gzsl, zsl)`.

    Both results are `[3, batch]` class ids for coarse, fine and fused: chosen among all classes,
    and among the unseen alone.
    """

    @jax.jit
    def predict(
        params: nnx.State, features: jax.Array, classes: ClassSpace
    ) -> tuple[jax.Array, jax.Array]:
        scores = jnp.stack(predict_scores(model, params, features, classes, mixing))
        among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
        return scores.argmax(-1), among_unseen.argmax(-1)

    return predict


def evaluate_task(
    predictor: Predictor,
    params: nnx.State,
    task: Task,
    classes: ClassSpace,
    batch_size: int,
) -> Metrics:
    """Evaluates on a task's images, each exactly once.

    Returns:
      For `coarse`, `fine` and `fused`: U, S, H and T1 in percent.
    """

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gzsl, zsl = [], []
        for features, count in evaluation_batches(task, images, batch_size):
            all_classes, unseen_classes = predictor(params, jnp.asarray(features), classes)
            gzsl.append(np.asarray(all_classes)[:, :count])
            zsl.append(np.asarray(unseen_classes)[:, :count])
        return np.concatenate(gzsl, axis=1), np.concatenate(zsl, axis=1)

    seen, _ = run(task.eval_seen)
    unseen, zsl = run(task.eval_unseen)
    seen_labels, unseen_labels = task.labels[task.eval_seen], task.labels[task.eval_unseen]
    return {
        name: gzsl_metrics(seen[i], seen_labels, unseen[i], unseen_labels, zsl[i])
        for i, name in enumerate(EXPERTS)
    }


def metrics_table(metrics: Metrics) -> str:
    """A fixed-width table of `metrics`, a line per expert."""
    lines = ["expert  " + "".join(f"{m:>8}" for m in METRICS)]
    lines += [
        f"{name:<8}" + "".join(f"{metrics[name][m]:8.1f}" for m in METRICS) for name in EXPERTS
    ]
    return "\n".join(lines)
