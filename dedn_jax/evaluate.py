"""U, S, H and T1 of each expert and of their mixture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import READ_HERE, Reading, evaluation_batches
from dedn_jax.distributed import shard_batch
from dedn_jax.metrics import gzsl_metrics, per_class_accuracy
from dedn_jax.step import NOTHING, ClassSpace, Mixing, predict_scores

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")
Metrics = dict[str, dict[str, float]]
Predictor = Callable[..., tuple[jax.Array, jax.Array]]


def make_predictor(model: nnx.GraphDef, mixing: Mixing) -> Predictor:
    """A compiled `(params, inputs, classes, frozen) -> (gzsl, zsl)`.

    `frozen` holds what the model has besides `params`; it may be left out if that is nothing. Both
    results are `[3, batch]` class ids for coarse, fine and fused: chosen among all classes,
    and among the unseen alone.
    """

    @jax.jit
    def predict(
        params: nnx.State, inputs: jax.Array, classes: ClassSpace, frozen: nnx.State = NOTHING
    ) -> tuple[jax.Array, jax.Array]:
        scores = jnp.stack(predict_scores(model, params, inputs, classes, mixing, frozen))
        among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
        return scores.argmax(-1), among_unseen.argmax(-1)

    return predict


def evaluate_task(
    predictor: Predictor,
    params: nnx.State,
    task: Task,
    classes: ClassSpace,
    batch_size: int,
    *,
    frozen: nnx.State = NOTHING,
    reading: Reading = READ_HERE,
) -> Metrics:
    """Evaluates on a task's images, each exactly once.

    Returns:
      For `coarse`, `fine` and `fused`: U, S, H and T1 in percent; S alone where no unseen class has
      an image.
    """

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gzsl, zsl = [], []
        for inputs, count in evaluation_batches(task.inputs, images, batch_size, reading):
            all_classes, unseen_classes = predictor(params, shard_batch(inputs), classes, frozen)
            gzsl.append(np.asarray(all_classes)[:, :count])
            zsl.append(np.asarray(unseen_classes)[:, :count])
        return np.concatenate(gzsl, axis=1), np.concatenate(zsl, axis=1)

    seen, _ = run(task.eval_seen)
    if not len(task.eval_unseen):
        labels = task.labels[task.eval_seen]
        return {name: {"S": per_class_accuracy(seen[i], labels)} for i, name in enumerate(EXPERTS)}
    unseen, zsl = run(task.eval_unseen)
    seen_labels, unseen_labels = task.labels[task.eval_seen], task.labels[task.eval_unseen]
    return {
        name: gzsl_metrics(seen[i], seen_labels, unseen[i], unseen_labels, zsl[i])
        for i, name in enumerate(EXPERTS)
    }


def metrics_table(metrics: Metrics) -> str:
    """A fixed-width table of `metrics`, a line per expert; `-` for what could not be measured."""
    lines = ["expert  " + "".join(f"{m:>8}" for m in METRICS)]
    for name in EXPERTS:
        row = metrics[name]
        lines.append(
            f"{name:<8}" + "".join(f"{row[m]:8.1f}" if m in row else f"{'-':>8}" for m in METRICS)
        )
    return "\n".join(lines)
