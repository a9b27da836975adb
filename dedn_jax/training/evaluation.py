"""U, S, H and T1 of each expert and of their mixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, Shard, evaluation_batches
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, lookup
from dedn_jax.training.interrupt import Stopped
from dedn_jax.training.metrics import gzsl, per_class_accuracy
from dedn_jax.training.network import Network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.prediction import Mixing, predict_classes

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")
Metrics = dict[str, dict[str, float]]
# The signal that asks to stop, 0 for none; given how many batches are done.
ShouldStop = Callable[[int], int]


def never_stop(_: int) -> int:
    """For evaluations that a signal ends at once."""
    return 0


class EvaluationLayout(Protocol):
    """How parameters and batches lie on the devices: a `Layout`, or that of a sweep's models."""

    @property
    def host_shard(self) -> Shard: ...

    @property
    def axes(self) -> Axes: ...

    def replicate(self, tree: Any) -> Any: ...

    def put(self, array: Any, spec: PartitionSpec) -> jax.Array: ...

    def padded_rows(self, rows: int) -> int: ...

    def shard_batch(self, array: np.ndarray, rows: int) -> jax.Array: ...

    def compile(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]: ...


L = TypeVar("L", bound=EvaluationLayout)


class Evaluator(Generic[L]):
    """Evaluates parameters of a network on a task's images, on every device of a layout.

    Args:
      network: the model's definition, and what is not trained.
      task: images and classes.
      groups: attribute groups of the model.
      config: `predict`, `loss.bias`, `evaluate.batch_size`, `data.workers`.
      layout: of the devices.
      features: resident feature maps; None: images are streamed.

    Attributes:
      task: as given.
      images: that a call evaluates: the seen classes' first.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        groups: AttributeGroups,
        config: ConfigDict,
        layout: L,
        features: ResidentFeatures | None = None,
    ) -> None:
        self.task, self._layout, self._features = task, layout, features
        self.images = np.concatenate([task.eval_seen, task.eval_unseen])
        self._batch_size = config.evaluate.batch_size
        self._reading = Reading(config.data.workers, layout.host_shard)
        classes = make_class_space(task.class_embeddings, task.seen, groups)
        self._constants = layout.replicate((classes, network.frozen))
        mixing = Mixing.from_config(config)

        def predict(params: nnx.State, inputs: jax.Array, constants: Any) -> Any:
            classes, frozen = constants
            return predict_classes(
                network.definition, params, inputs, classes, mixing, frozen, layout.axes
            )

        self._predict = self._compile(predict)

    def __call__(self, params: nnx.State, should_stop: ShouldStop = never_stop) -> Metrics:
        """The metrics of `params`, each image counted once.

        Args:
          params: replicated over the layout.
          should_stop: polled between streamed batches; with resident features the device goes
            through all batches at once.

        Returns:
          For `coarse`, `fine` and `fused`: U, S, H and T1 in percent; S alone where no unseen
          class has an image.

        Raises:
          Stopped: `should_stop` gave a signal.
        """
        among_all, among_unseen = self.predictions(params, self.images, should_stop)
        return self._metrics(among_all, among_unseen)

    def predictions(
        self, params: nnx.State, images: np.ndarray, should_stop: ShouldStop = never_stop
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicted class ids of the task for `images`.

        Args:
          params, should_stop: as for a call.
          images: `[images]` indices.

        Returns:
          `[3, images]` for coarse, fine and fused: among all classes, and among the unseen alone.

        Raises:
          Stopped: as there.
        """
        size = self._batch_size
        if self._features is not None:
            indices = batches_of(images, size, self._layout.padded_rows(size))
            placed = self._layout.put(indices, PartitionSpec(None, DATA))
            found = self._predict(params, placed, self._constants, self._features)
            among_all, among_unseen = (in_order(x, size, len(images)) for x in found)
            return among_all, among_unseen
        parts: list[Any] = []
        for inputs, count in evaluation_batches(self.task.inputs, images, size, self._reading):
            batch = self._layout.shard_batch(inputs, size)
            found = self._predict(params, batch, self._constants)
            parts.append([x[..., :count] for x in found])
            if len(parts) > 1:  # the device computes a batch while the next one is read
                parts[-2] = jax.device_get(parts[-2])
            if len(parts) * size < len(images) and (signal := should_stop(len(parts))):
                raise Stopped(signal)
        among_all, among_unseen = (np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))
        return among_all, among_unseen

    def _metrics(self, among_all: np.ndarray, among_unseen: np.ndarray) -> Metrics:
        """Of one model's predictions for `images`, `[3, images]` each."""
        pairs = zip(EXPERTS, among_all, among_unseen, strict=True)
        return {name: task_metrics(self.task, a, u) for name, a, u in pairs}

    def _compile(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """`(params, inputs, constants) -> (among all, among unseen)`, results `[3, batch]`.

        With resident features inputs are the indices of all batches, `[batches, batch]`, and
        results `[batches, 3, batch]`: the device goes from batch to batch without the host.
        """
        if self._features is None:
            by_image = PartitionSpec(None, DATA)
            specs = (REPLICATED, SHARDED, REPLICATED)
            return self._layout.compile(predict, specs, (by_image, by_image))
        by_image, of_features = PartitionSpec(None, None, DATA), features_spec(self._features)
        all_specs = (REPLICATED, PartitionSpec(None, DATA), REPLICATED, of_features)
        return self._layout.compile(over_batches(predict), all_specs, (by_image, by_image))


def over_batches(predict: Callable[..., Any]) -> Callable[..., Any]:
    """`predict` for all batches, whose images are looked up in resident features."""

    def predict_all(
        params: nnx.State, images: jax.Array, constants: Any, features: ResidentFeatures
    ) -> Any:
        return jax.lax.map(lambda i: predict(params, lookup(features, i), constants), images)

    return predict_all


def batches_of(images: np.ndarray, batch_size: int, rows: int) -> np.ndarray:
    """Image indices batch by batch, padded with image 0.

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


def in_order(predictions: jax.Array, batch_size: int, count: int) -> np.ndarray:
    """Results `[batches, ..., rows]` of `batches_of` as `[..., count]`; waits for the device."""
    found = np.moveaxis(np.asarray(predictions)[..., :batch_size], 0, -2)
    return found.reshape(*found.shape[:-2], -1)[..., :count]


def task_metrics(task: Task, among_all: np.ndarray, among_unseen: np.ndarray) -> dict[str, float]:
    """U, S, H and T1 in percent from predictions; S alone where no unseen class has an image.

    Args:
      task: images and labels.
      among_all: `[images]` class ids predicted among all classes, for `eval_seen`, then
        `eval_unseen`.
      among_unseen: `[images]` class ids predicted among the unseen classes.
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
