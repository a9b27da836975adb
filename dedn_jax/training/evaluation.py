"""U, S, H, T1 and AUSUC of each expert and of their mixture, and the scores behind them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, Shard, evaluation_batches
from dedn_jax.model.experts import EXPERTS as MODEL_EXPERTS
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, lookup
from dedn_jax.pulse import PULSE
from dedn_jax.training.interrupt import Stopped
from dedn_jax.training.metrics import gzsl, per_class_accuracy
from dedn_jax.training.network import Network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.prediction import (
    BranchScores,
    Choices,
    Mixing,
    predict_branches,
)
from dedn_jax.training.scores import Scores, unstack
from dedn_jax.training.seen_unseen import SeenUnseenCurve, seen_unseen_curve

EXPERTS = ("coarse", "fine", "fused")
METRICS = ("U", "S", "H", "T1")  # in percent
AUSUC = "AUSUC"  # from 0 to 1
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

    # Of a result's rows; a sweep's results have an axis of models before it.
    _row_axis = 0

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
        self._network, self._order = network, groups.order
        self._batch_size = min(config.evaluate.batch_size, len(self.images)) or 1
        self._reading = Reading(config.data.workers, layout.host_shard)
        classes = make_class_space(task.class_embeddings, task.seen, groups)
        self._constants = layout.replicate((classes, network.frozen))
        self._mixing = Mixing.from_config(config)
        present = (*MODEL_EXPERTS[config.model.experts], "fused")
        self._names = [name for name in EXPERTS if name in present]

    def __call__(self, params: nnx.State, should_stop: ShouldStop = never_stop) -> Metrics:
        """The metrics of `params`, each image counted once.

        Args:
          params: replicated over the layout.
          should_stop: polled between streamed batches; with resident features the device goes
            through all batches at once.

        Returns:
          For `coarse`, `fine` and `fused`, without an expert that the model lacks: U, S, H and T1
          in percent and AUSUC, from 0 to 1; S alone where no unseen class has an image, U and T1
          where no seen one has.

        Raises:
          Stopped: `should_stop` gave a signal.
        """
        return self._metrics(self.choices(params, self.images, should_stop))

    def choices(
        self, params: nnx.State, images: np.ndarray, should_stop: ShouldStop = never_stop
    ) -> Choices[np.ndarray]:
        """What the model chooses for `images`, as host arrays.

        Args:
          params, should_stop: as for a call.
          images: `[images]` indices.

        Raises:
          Stopped: as there.
        """
        return self._over_images(self._choose, params, images, should_stop)

    def with_scores(
        self, params: nnx.State, should_stop: ShouldStop = never_stop
    ) -> tuple[Metrics, Scores]:
        """What a call gives, and the scores, from one pass over the images.

        The scores take 16 bytes of host memory an image for every class and attribute.

        Args:
          params, should_stop: as for a call.

        Raises:
          Stopped: as there.
        """
        choices, found = self._over_images(self._score, params, self.images, should_stop)
        return self._metrics(choices), self._scores(found)

    def _over_images(
        self, function: Callable[..., Any], params: nnx.State, images: np.ndarray, poll: ShouldStop
    ) -> Any:
        """What a compiled function gives for every image, joined along the axis of rows."""
        size, axis = self._batch_size, self._row_axis
        if self._features is not None:
            indices = batches_of(images, size, self._layout.padded_rows(size))
            placed = self._layout.put(indices, PartitionSpec(None, DATA))
            found = function(params, placed, self._constants, self._features)
            return jax.tree.map(lambda x: in_order(x, size, len(images), axis), found)
        parts: list[Any] = []
        for inputs, count in evaluation_batches(self.task.inputs, images, size, self._reading):
            batch = self._layout.shard_batch(inputs, size)
            rows = (slice(None),) * axis + (slice(count),)
            found = function(params, batch, self._constants)
            PULSE.beat(f"evaluation, batch {len(parts) + 1}")
            parts.append(jax.tree.map(lambda x, rows=rows: x[rows], found))
            if len(parts) > 1:  # the device computes a batch while the next one is read
                parts[-2] = jax.device_get(parts[-2])
            if len(parts) * size < len(images) and (signal := poll(len(parts))):
                raise Stopped(signal)
        return jax.tree.map(lambda *x: np.concatenate(x, axis=axis), *parts)

    def _metrics(self, choices: Choices[np.ndarray]) -> Metrics:
        """Of one model's choices for `images`."""
        labels = self.task.labels[self.images]
        unseen = ~self.task.seen[labels]
        return {
            name: gzsl_metrics(Choices(*(x[:, e] for x in choices)), labels, unseen)
            for e, name in enumerate(EXPERTS)
            if name in self._names
        }

    def _scores(self, found: BranchScores[np.ndarray]) -> Scores:
        """Of one model, for `images`."""
        task = self.task
        attributes, classes = unstack(found, self._order)
        labels = task.labels[self.images]
        return Scores(task.seen, attributes, classes, self.images, labels, task.class_ids)

    @cached_property
    def _choose(self) -> Callable[..., Any]:
        return self._compile(self._of_batch(choices_alone))

    @cached_property
    def _score(self) -> Callable[..., Any]:
        return self._compile(self._of_batch(predict_branches))

    def _of_batch(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """`(params, inputs, (classes, frozen)) -> results`, by `predict`."""
        definition, mixing, axes = self._network.definition, self._mixing, self._layout.axes

        def of_batch(params: nnx.State, inputs: jax.Array, constants: Any) -> Any:
            classes, frozen = constants
            return predict(definition, params, inputs, classes, mixing, frozen, axes)

        return of_batch

    def _compile(self, of_batch: Callable[..., Any]) -> Callable[..., Any]:
        """`(params, inputs, constants) -> results`, `[batch, ...]` each.

        With resident features inputs are the indices of all batches, `[batches, batch]`, and
        results `[batches, batch, ...]`: the device goes from batch to batch without the host.
        """
        if self._features is None:
            return self._layout.compile(of_batch, (REPLICATED, SHARDED, REPLICATED), SHARDED)
        by_image, of_features = PartitionSpec(None, DATA), features_spec(self._features)
        specs = (REPLICATED, by_image, REPLICATED, of_features)
        return self._layout.compile(over_batches(of_batch), specs, by_image)


def choices_alone(*arguments: Any) -> Choices[jax.Array]:
    """The choices of `predict_branches`; XLA leaves out what they do not need."""
    return predict_branches(*arguments)[0]


def over_batches(of_batch: Callable[..., Any]) -> Callable[..., Any]:
    """`of_batch` for all batches, whose images are looked up in resident features."""

    def of_all(
        params: nnx.State, images: jax.Array, constants: Any, features: ResidentFeatures
    ) -> Any:
        return jax.lax.map(lambda i: of_batch(params, lookup(features, i), constants), images)

    return of_all


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


def in_order(results: jax.Array, batch_size: int, count: int, axis: int = 0) -> np.ndarray:
    """Results of `batches_of` without the padding; waits for the device.

    Args:
      results: `[batches, ...]`, with rows on the axis `axis + 1`.
      batch_size: images of a batch.
      count: of all images.
      axis: of the images in what is returned.
    """
    found = np.moveaxis(np.asarray(results), 0, axis)  # [..., batches, rows, ...]
    found = found[(slice(None),) * (axis + 1) + (slice(batch_size),)]
    found = found.reshape(*found.shape[:axis], -1, *found.shape[axis + 2 :])
    return found[(slice(None),) * axis + (slice(count),)]


def gzsl_metrics(
    chosen: Choices[np.ndarray], labels: np.ndarray, unseen: np.ndarray
) -> dict[str, float]:
    """U, S, H and T1 in percent and AUSUC; of one kind of images what these alone can say.

    That is S where no image is of an unseen class, U and T1 where none is of a seen one.

    Args:
      chosen: by one expert, `[images]` each.
      labels: `[images]` class ids.
      unseen: `[images]`, whether that is an unseen class.
    """
    if not unseen.any():
        return {"S": per_class_accuracy(chosen.among_all, labels)}
    if unseen.all():
        return {
            "U": per_class_accuracy(chosen.among_all, labels),
            "T1": per_class_accuracy(chosen.among_unseen, labels),
        }
    found = gzsl(
        chosen.among_all[~unseen],
        labels[~unseen],
        chosen.among_all[unseen],
        labels[unseen],
        chosen.among_unseen[unseen],
    )
    return found | {AUSUC: curve_of(chosen, labels, unseen).area}


def curve_of(
    chosen: Choices[np.ndarray], labels: np.ndarray, unseen: np.ndarray
) -> SeenUnseenCurve:
    """The seen-unseen curve; arguments as for `gzsl_metrics`."""
    best = np.where(unseen, chosen.among_unseen, chosen.among_seen)
    return seen_unseen_curve(chosen.gap, best == labels, labels, unseen)


def metrics_table(metrics: Metrics) -> str:
    """A fixed-width table of `metrics`, a line per expert; `-` for what could not be measured."""
    lines = ["expert  " + "".join(f"{m:>8}" for m in (*METRICS, AUSUC))]
    for name in (name for name in EXPERTS if name in metrics):
        row = metrics[name]
        cells = [f"{row[m]:8.1f}" if m in row else f"{'-':>8}" for m in METRICS]
        cells.append(f"{row[AUSUC]:8.3f}" if AUSUC in row else f"{'-':>8}")
        lines.append(f"{name:<8}" + "".join(cells))
    return "\n".join(lines)
