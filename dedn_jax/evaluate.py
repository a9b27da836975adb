"""U, S, H and T1 of each expert and of their mixture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from dedn_jax.axes import ALONE
from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, evaluation_batches
from dedn_jax.distributed import CUT, DATA, WHOLE, Layout, local_layout
from dedn_jax.feature_table import FeatureTable, look_up, table_spec
from dedn_jax.feed import Feed
from dedn_jax.metrics import gzsl_metrics, per_class_accuracy
from dedn_jax.step import NOTHING, ClassSpace, Mixing, predict_scores

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")
Metrics = dict[str, dict[str, float]]
Predictor = Callable[..., tuple[jax.Array, jax.Array]]


def make_predictor(
    model: nnx.GraphDef,
    mixing: Mixing,
    layout: Layout | None = None,
    kept: FeatureTable | None = None,
) -> Predictor:
    """A compiled `(params, inputs, classes, frozen, table) -> (gzsl, zsl)`.

    `frozen` holds what the model has besides `params`; it may be left out if that is nothing. Both
    results are `[3, batch]` class ids for coarse, fine and fused: chosen among all classes,
    and among the unseen alone, on every device of `layout`. `table` is `kept`, the feed's.
    """

    axes = ALONE if layout is None else layout.axes

    def predict(
        params: nnx.State,
        inputs: jax.Array,
        classes: ClassSpace,
        frozen: nnx.State = NOTHING,
        table: FeatureTable | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        inputs = look_up(table, inputs)
        scores = jnp.stack(predict_scores(model, params, inputs, classes, mixing, frozen, axes))
        among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
        return scores.argmax(-1), among_unseen.argmax(-1)

    if layout is None:
        return jax.jit(predict)
    by_image = PartitionSpec(None, DATA)
    mapped = layout.over_batch(
        predict,
        (WHOLE, CUT, WHOLE, WHOLE, table_spec(kept)),
        (by_image, by_image),
    )
    return jax.jit(mapped, out_shardings=layout.replicated)


def evaluate_task(
    predictor: Predictor,
    params: nnx.State,
    task: Task,
    classes: ClassSpace,
    batch_size: int,
    *,
    frozen: nnx.State = NOTHING,
    feed: Feed | None = None,
    layout: Layout | None = None,
    workers: int = 0,
) -> Metrics:
    """Evaluates on a task's images, each exactly once.

    Args:
      predictor: made for the same layout and table.
      params: replicated over the layout, as are `classes` and `frozen`.
      task: images and labels.
      classes: to choose among.
      batch_size: images at a time.
      frozen: what the model has besides `params`.
      feed: what batches are made of; None: the task's inputs, batch by batch.
      layout: of the devices; None: all of this process's.
      workers: processes that read ahead.

    Returns:
      For `coarse`, `fine` and `fused`: U, S, H and T1 in percent; S alone where no unseen class has
      an image.
    """

    inputs, table = feed or Feed(task.inputs, None)
    layout = layout or local_layout()
    reading = Reading(workers, layout.shard)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gzsl, zsl = [], []
        for batch, count in evaluation_batches(inputs, images, batch_size, reading):
            all_classes, unseen_classes = predictor(
                params, layout.cut(batch, batch_size), classes, frozen, table
            )
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
