"""The train steps that `train_step` and `step_memory` measure: published and ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_sizes import MadeUp
from dedn_jax.data.features.maps import InMemoryFeatures, normalize
from dedn_jax.data.pipeline import Batch
from dedn_jax.interop.our_side import OurSide
from dedn_jax.interop.published import Params
from dedn_jax.interop.published_model import PublishedModel
from dedn_jax.parallel.executors import Executor, JitExecutor, ResidentExecutor, metrics_at
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import NONE_FROZEN, TrainState, TrainStep, init_state, make_train_step

AT_HAND, INDEXING, OURS = "published", "published, indexing", "ours"
ON_DEVICE = "features on the device"
Step = Callable[[int], float]
_ROUNDED = 2e-2  # tolerance of losses out of features with 8 bits of mantissa


class Side(NamedTuple):
    """An implementation of the train step.

    Attributes:
      step: does the step with that number, 0, 1, 2, ...; returns when the parameters are updated,
        with the loss from before.
      base: the side that its time is compared with.
      same_batches: whether steps 0 and 1 take the problem's batches.
      call: what is timed, by the number of the turn; None: `step`.
      steps: that a call does.
      tolerance: of its losses, relative to those of the first side.
    """

    step: Step
    base: str
    same_batches: bool = True
    call: Callable[[int], Any] | None = None
    steps: int = 1
    tolerance: float = 1e-4


def published_at_hand(model: PublishedModel, made: MadeUp) -> Step:
    """The published step with the problem's batches."""
    batches = made.problem.batches
    return lambda number: model.step(*batches[number % len(batches)]).item()


def published_indexing(model: PublishedModel, made: MadeUp) -> Step:
    """The published step with the batch that the published loader draws, indexes and sends."""
    loader = published_loader(model, made)

    def step(_: int) -> float:
        labels, features, _ = loader.next_batch(made.config.train.batch_size)
        return model.step(features, labels).item()

    return step


def published_loader(model: PublishedModel, made: MadeUp) -> Any:
    """The published loader over made-up images; its own start reads a file of real ones."""
    import torch

    tensor = torch.from_numpy
    loader_class: Any = model.reference.loader_class
    loader = loader_class.__new__(loader_class)
    loader.device, loader.is_balance = model.device, made.config.train.balanced
    loader.data = {
        "train_seen": {"resnet_features": tensor(made.features), "labels": tensor(made.labels)}
    }
    loader.att = tensor(made.problem.class_embeddings).to(model.device)
    loader.seenclasses = tensor(np.flatnonzero(made.problem.seen)).to(model.device)
    loader.ntrain, loader.ntrain_class = len(made.labels), len(loader.seenclasses)
    loader.get_idx_classes()
    return loader


def ours_at_hand(ours: OurSide, made: MadeUp) -> Step:
    """Our step with the problem's batches, normalised before; it donates the state of `ours`."""
    batches = [ours.batch(*pair) for pair in made.problem.batches]
    return _compiled_step(ours, ours.state, lambda number: batches[number % len(batches)])


def our_sides(ours: OurSide, made: MadeUp) -> dict[str, Side]:
    """All variants of our step, by name."""
    config, pairs = made.config, made.problem.batches
    layout = Layout.of_devices(jax.devices()[:1])
    flat = made.features.reshape(*made.features.shape[:2], -1)
    inputs = InMemoryFeatures(normalize(flat, config.data.dtype))

    def start() -> TrainState:
        return init_state(jax.tree.map(jnp.copy, ours.params), make_optimizer(config))

    def make_step(_: Any) -> TrainStep:  # on one device there are no axes to reduce along
        return make_train_step(ours.model, ours.objective, make_optimizer(config))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels = made.labels.astype(np.int32)
        for images in map(made.sampler, itertools.count()):
            yield inputs[images], labels[images]

    def trained(on_device: str) -> Side:
        """Steps as a training runs them, except that batches are not prefetched."""
        config = made.config.copy_and_resolve_references()
        config.data.on_device = on_device
        table = place_features(inputs, config, layout)
        fixed = make_step, layout, (ours.classes, NONE_FROZEN)
        executor: Executor
        if table is None:
            executor = JitExecutor(*fixed, batches(), made.sampler.size)
        else:
            resident = ResidentBatches(table, made.sampler, config.train.steps_per_call)
            executor = ResidentExecutor(*fixed, resident)
        state = executor.place(start())

        def run(count: int) -> float:
            nonlocal state
            state, terms = executor.run(state, count)
            jax.block_until_ready(state)
            return metrics_at(terms, 0)["loss"]

        most = executor.max_steps
        return Side(lambda _: run(1), INDEXING, call=lambda _: run(most), steps=most)

    normalising = _compiled_step(
        ours, start(), lambda number: ours.batch(*pairs[number % len(pairs)])
    )
    return {
        OURS: Side(ours_at_hand(ours, made), AT_HAND),
        f"{OURS}, normalising": Side(normalising, AT_HAND),
        f"{OURS}, indexing": trained("never"),
        f"{OURS}, {ON_DEVICE}": trained("replicated"),
    }


def our_bfloat16_sides(made: MadeUp, params: Params) -> dict[str, Side]:
    """Two of them again, from the weights `params`, with products in bfloat16.

    Features on the device are bfloat16 as well; a batch at hand is rounded in the step.
    """
    config = made.config.copy_and_resolve_references()
    config.data.dtype = config.model.precision = "bfloat16"
    sides = our_sides(OurSide(config, made.problem, params), made._replace(config=config))
    return {
        name.replace(OURS, f"{OURS}, bfloat16"): sides[name]._replace(tolerance=_ROUNDED)
        for name in (OURS, f"{OURS}, {ON_DEVICE}")
    }


def _compiled_step(ours: OurSide, state: TrainState, batch: Callable[[int], Batch]) -> Step:
    def step(number: int) -> float:
        nonlocal state
        state, terms = ours.compiled(state, batch(number), ours.classes)
        jax.block_until_ready(state)
        return float(terms["loss"])

    return step
