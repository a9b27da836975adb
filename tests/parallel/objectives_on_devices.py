"""Trains all distillation objectives on one device and on eight, and prints how far they differ.

Needs a process of its own with eight simulated devices; its arguments are names of `CASES`.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.model.groups import resolve_groups
from dedn_jax.parallel.executors import JitExecutor, PmapExecutor, metrics_at
from dedn_jax.parallel.mesh import Layout
from dedn_jax.training.network import build_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import ModelState, init_state, make_train_step

STEPS, IMAGES, CHANNELS, REGIONS, CLASSES, ATTRIBUTES = 4, 10, 8, 4, 5, 6
# Those that read a batch as a whole, a second view of it, or heads; and those that do neither.
# Two programs and not eleven, which would take a minute to compile.
WHOLE = ("sinkhorn", "relational", "norm_direction", "confident", "dual_head")
BY_IMAGE = tuple(name for name in OBJECTIVES if name not in WHOLE)


class Case(NamedTuple):
    """How eight devices train: which objectives, by what, and arguments of `Layout.of_devices`."""

    names: tuple[str, ...]
    executor: type[JitExecutor | PmapExecutor]
    layout: dict[str, Any]


CASES = {
    "jit": Case(BY_IMAGE, JitExecutor, {}),
    "jit, whole batches": Case(WHOLE, JitExecutor, {}),
    "pmap": Case(WHOLE, PmapExecutor, {}),
    "attribute shards": Case(WHOLE, JitExecutor, {"attribute_shards": 2}),
    "sharded state": Case(BY_IMAGE, JitExecutor, {"shard_state": True}),
    "sharded state, whole batches": Case(WHOLE, JitExecutor, {"shard_state": True}),
    "sharded state, attribute shards": Case(
        WHOLE, JitExecutor, {"attribute_shards": 2, "shard_state": True}
    ),
}
Trained = tuple[list[np.ndarray], list[dict[str, float]]]


def train(
    layout: Layout, names: tuple[str, ...], executor: type[JitExecutor | PmapExecutor]
) -> Trained:
    """Parameters after the steps, and the terms of every step. 10 images fill 16 rows of eight."""
    config = _config(names)
    rng = np.random.default_rng(0)
    # With so many numbers an attribute's rows have more, or fewer, than what they are folded from:
    # what is sent are the fewer, or their gradients.
    word_vectors = rng.standard_normal((ATTRIBUTES, 5 if names == WHOLE else 3))
    groups = resolve_groups(config.data.groups, word_vectors, None)
    network = build_network(config, word_vectors, groups, channels=CHANNELS, regions=REGIONS)
    seen = np.arange(CLASSES) < CLASSES - 1
    classes = make_class_space(rng.uniform(size=(CLASSES, ATTRIBUTES)), seen, groups)
    maps = rng.uniform(size=(STEPS, IMAGES, CHANNELS, REGIONS)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, (STEPS, IMAGES)).astype(np.int32)
    objective, optimizer = Objective.from_config(config, 2), make_optimizer(config)

    # Its own start teaches the model: as good as another's parameters.
    taught = network.definition if config.teacher.workdir else None
    copied = jax.tree.map(jnp.copy, network.params)  # a step reuses the memory of its state
    teacher = ModelState(copied, network.frozen, classes) if taught else None

    def make_step(axes: Any) -> Any:
        return make_train_step(network.definition, objective, optimizer, axes, taught)

    batches = iter(zip(maps, labels, strict=True))
    constants = classes, network.frozen, teacher
    runs = executor(make_step, layout, constants, batches, IMAGES)
    state, lines = runs.place(init_state(network.params, optimizer)), []
    for _ in range(STEPS):
        state, terms = runs.run(state, 1)
        lines.append(metrics_at(terms, 0))
    params = jax.tree.leaves(runs.replicated(state).params)
    return [np.asarray(x) for x in params], lines


def _config(names: tuple[str, ...]) -> ConfigDict:
    return load_config(
        "base",
        {
            "data.groups": "0-3;4-5",
            "loss.distillation.name": "+".join(names),
            **{f"loss.distillation.{name}.weight": 1.0 for name in names},
            "loss.distillation.schedule": "warmup",
            "loss.distillation.schedule_epochs": 1.0,
            "train.mixup": 0.4 if names == BY_IMAGE else 0.0,
            "optimizer.learning_rate": 1e-3,
            "optimizer.clip_norm": 0.1,
            "model.rank": 2 if names == BY_IMAGE else 0,
            "teacher.workdir": "its own" if names == BY_IMAGE else "",
            # RMSprop divides by a gradient's size: where that is rounding alone, so is the step.
            "optimizer.epsilon": 1e-3,
        },
    )


def distance(found: Trained, expected: Trained) -> dict[str, float]:
    """Of parameters, over the largest in their array; of each term, over its size.

    A divergence close to 0 is a difference of rounded logarithms: no closer than 1e-6.
    """
    pairs = zip(found[0], expected[0], strict=True)
    furthest = {"parameters": max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)}
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            gap = abs(mine[name] - value) / max(abs(value), 0.1)
            furthest[name] = max(furthest.get(name, 0.0), gap)
    return furthest


def main() -> None:
    """Prints `{case: {what: distance}}`."""
    assert jax.device_count() == 8
    one = Layout.of_devices(jax.devices()[:1])
    cases = {name: CASES[name] for name in sys.argv[1:]}
    every = {case.names for case in cases.values()}
    alone = {names: train(one, names, JitExecutor) for names in every}
    found = {
        name: distance(train(Layout.of_devices(**case.layout), *case[:2]), alone[case.names])
        for name, case in cases.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
