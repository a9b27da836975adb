"""U, S, H and T1 of each expert and of their mixture."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, Task, trainval_task
from dedn_jax.data.pipeline import Reading, evaluation_batches
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.axes import ALONE
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED, Layout, local_layout
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, lookup
from dedn_jax.training.interrupt import Stopped
from dedn_jax.training.metrics import gzsl, per_class_accuracy
from dedn_jax.training.network import Network
from dedn_jax.training.objective import ClassSpace, make_class_space
from dedn_jax.training.prediction import Mixing, predict_scores
from dedn_jax.training.step import NONE_FROZEN

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")
Metrics = dict[str, dict[str, float]]
Predictor = Callable[..., tuple[jax.Array, jax.Array]]
# The signal that asks to stop, 0 for none; given how many batches are done.
ShouldStop = Callable[[int], int]


def never_stop(_: int) -> int:
    """For evaluations that a signal ends at once."""
    return 0


def make_predictor(
    model: nnx.GraphDef,
    mixing: Mixing,
    layout: Layout | None = None,
    table: ResidentFeatures | None = None,
) -> Predictor:
    """A compiled `(params, inputs, classes, frozen) -> (gzsl, zsl)`, on every device of `layout`.

    Both results are class ids for coarse, fine and fused: chosen among all classes, and among the
    unseen alone. `frozen` holds what the model has besides `params`; without a layout it may be
    left out if that is nothing.

    Without a table `inputs` are a batch, and results `[3, batch]`. With one they are the images of
    all batches, `[batches, batch]` indices in the table, and results `[batches, 3, batch]`: the
    device goes from batch to batch without the host.
    """
    axes = ALONE if layout is None else layout.axes

    def predict(
        params: nnx.State,
        inputs: jax.Array,
        classes: ClassSpace,
        frozen: nnx.State = NONE_FROZEN,
    ) -> tuple[jax.Array, jax.Array]:
        scores = jnp.stack(predict_scores(model, params, inputs, classes, mixing, frozen, axes))
        among_unseen = jnp.where(classes.seen, -jnp.inf, scores)
        return scores.argmax(-1), among_unseen.argmax(-1)

    if layout is None:
        return jax.jit(predict)
    if table is None:
        by_image = PartitionSpec(None, DATA)
        mapped = layout.map_over_batch(
            predict, (REPLICATED, SHARDED, REPLICATED, REPLICATED), (by_image, by_image)
        )
        return jax.jit(mapped, out_shardings=layout.replicated)

    def predict_all(
        params: nnx.State,
        images: jax.Array,
        classes: ClassSpace,
        frozen: Any,
        table: ResidentFeatures,
    ) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda i: predict(params, lookup(table, i), classes, frozen), images)

    by_image = PartitionSpec(None, None, DATA)
    cut = (REPLICATED, PartitionSpec(None, DATA), REPLICATED, REPLICATED, features_spec(table))
    mapped = layout.map_over_batch(predict_all, cut, (by_image, by_image))
    compiled = jax.jit(mapped, out_shardings=layout.replicated)
    return lambda *given: compiled(*given, table)


def batches_of(images: np.ndarray, batch_size: int, rows: int) -> np.ndarray:
    """Image indices batch by batch, filled up with image 0.

    Args:
      images: in order.
      batch_size: images of a batch.
      rows: of a batch, at least as many.

    Returns:
      `[batches, rows]` int32.
    """
    count = -(-len(images) // batch_size)
    filled = np.zeros(count * batch_size, np.int32)
    filled[: len(images)] = images
    return np.pad(filled.reshape(count, batch_size), ((0, 0), (0, rows - batch_size)))


def in_order(choices: jax.Array, batch_size: int, count: int) -> np.ndarray:
    """Results `[batches, ..., rows]` of `batches_of` as `[..., count]`; waits for the device."""
    found = np.moveaxis(np.asarray(choices)[..., :batch_size], 0, -2)
    return found.reshape(*found.shape[:-2], -1)[..., :count]


def evaluate_task(
    predictor: Predictor,
    params: nnx.State,
    task: Task,
    classes: ClassSpace,
    batch_size: int,
    *,
    frozen: nnx.State = NONE_FROZEN,
    looks_up: bool = False,
    layout: Layout | None = None,
    workers: int = 0,
    asked: ShouldStop = never_stop,
) -> Metrics:
    """Evaluates on a task's images, each exactly once.

    Args:
      predictor: made for the same layout.
      params: replicated over the layout, as are `classes` and `frozen`.
      task: images and labels.
      classes: to choose among.
      batch_size: images at a time.
      frozen: what the model has besides `params`.
      looks_up: whether the predictor has a table, and is given indices.
      layout: of the devices; None: all of this process's.
      workers: processes that read ahead.
      asked: called between batches that are read; not where the predictor has a table, since the
        device then goes through all of them at once.

    Returns:
      For `coarse`, `fine` and `fused`: U, S, H and T1 in percent; S alone where no unseen class has
      an image.

    Raises:
      Stopped: `asked` gave a signal.
    """
    layout = layout or local_layout()
    images = np.concatenate([task.eval_seen, task.eval_unseen])
    if looks_up:
        indices = batches_of(images, batch_size, layout.padded_rows(batch_size))
        placed = layout.put(indices, PartitionSpec(None, DATA))
        found = predictor(params, placed, classes, frozen)
        gzsl, zsl = (in_order(x, batch_size, len(images)) for x in found)
    else:
        reading = Reading(workers, layout.host_shard)
        parts: list[Any] = []
        for inputs, count in evaluation_batches(task.inputs, images, batch_size, reading):
            batch = layout.shard_batch(inputs, batch_size)
            parts.append([x[:, :count] for x in predictor(params, batch, classes, frozen)])
            if len(parts) > 1:  # the device is at work on a batch while the next one is read
                parts[-2] = jax.device_get(parts[-2])
            if len(parts) * batch_size < len(images) and (signal := asked(len(parts))):
                raise Stopped(signal)
        gzsl, zsl = (np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    return dict(zip(EXPERTS, map(functools.partial(task_metrics, task), gzsl, zsl), strict=True))


def evaluate_params(
    config: ConfigDict,
    dataset: GZSLDataset,
    groups: AttributeGroups,
    network: Network,
    params: nnx.State,
    table: ResidentFeatures | None = None,
    layout: Layout | None = None,
    asked: ShouldStop = never_stop,
    batch_size: int | None = None,
) -> Metrics:
    """U, S, H and T1 of `params` on the test sets, looked up in `table` if there is one.

    Raises:
      Stopped: as `evaluate_task`.
    """
    task = trainval_task(dataset)
    layout = layout or local_layout()
    classes = make_class_space(task.class_embeddings, task.seen, groups)
    params, classes, frozen = layout.replicate((params, classes, network.frozen))
    return evaluate_task(
        make_predictor(network.definition, Mixing.from_config(config), layout, table),
        params,
        task,
        classes,
        batch_size or config.evaluate.batch_size,
        frozen=frozen,
        looks_up=table is not None,
        layout=layout,
        workers=config.data.workers,
        asked=asked,
    )


def task_metrics(task: Task, among_all: np.ndarray, among_unseen: np.ndarray) -> dict[str, float]:
    """Of the classes chosen for a task's images, the seen ones first.

    Args:
      task: images and labels.
      among_all: `[images]` class ids chosen among all classes.
      among_unseen: `[images]` class ids chosen among the unseen classes.

    Returns:
      U, S, H and T1 in percent; S alone where no unseen class has an image.
    """
    seen = len(task.eval_seen)
    seen_labels, unseen_labels = task.labels[task.eval_seen], task.labels[task.eval_unseen]
    if not len(unseen_labels):
        return {"S": per_class_accuracy(among_all, seen_labels)}
    return gzsl(among_all[:seen], seen_labels, among_all[seen:], unseen_labels, among_unseen[seen:])


def metrics_table(metrics: Metrics) -> str:
    """A fixed-width table of `metrics`, a line per expert; `-` for what could not be measured."""
    lines = ["expert  " + "".join(f"{m:>8}" for m in METRICS)]
    for name in EXPERTS:
        row = metrics[name]
        lines.append(
            f"{name:<8}" + "".join(f"{row[m]:8.1f}" if m in row else f"{'-':>8}" for m in METRICS)
        )
    return "\n".join(lines)
