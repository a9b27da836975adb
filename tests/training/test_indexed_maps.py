"""A step on maps that are still to be looked up has the numbers of one on the maps themselves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.config import load_config
from dedn_jax.data.pipeline import Batch
from dedn_jax.model.attention.indexed import IndexedMaps
from dedn_jax.model.groups import resolve_groups
from dedn_jax.training.network import build_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.step import ModelState, loss_and_gradients

IMAGES, CHANNELS, REGIONS, CLASSES, ATTRIBUTES = 6, 12, 4, 5, 6
KERNELS = ("cpu", "cpu_bfloat16", "gpu", "tpu", "pallas")
FIELDS: dict[str, dict[str, Any]] = {
    "published": {},
    "dropped": {
        "loss.distillation.name": "confident",
        "loss.distillation.confident.weight": 1.0,
    },
    "mixed": {"train.mixup": 0.4},
    "taught": {"teacher.workdir": "its own"},
}


@pytest.mark.parametrize(
    ("kernel", "case"),
    [(kernel, "published") for kernel in KERNELS]
    + [("pallas", case) for case in FIELDS if case != "published"],
)
def test_numbers_of_the_maps_themselves(kernel: Any, case: str) -> None:
    config = load_config("base", {"data.groups": "0-3;4-5", **FIELDS[case]})
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ATTRIBUTES, 5))
    groups = resolve_groups(config.data.groups, vectors, None)
    network = build_network(
        config, vectors, groups, channels=CHANNELS, regions=REGIONS, kernel=kernel
    )
    classes = make_class_space(
        rng.uniform(size=(CLASSES, ATTRIBUTES)), np.arange(CLASSES) < CLASSES - 1, groups
    )
    # As resident features have them: padded to whole tiles with zeros.
    table = np.zeros((9, 8, 128), np.float32)
    table[:, :REGIONS, :CHANNELS] = rng.uniform(size=(9, REGIONS, CHANNELS))
    rows = jnp.asarray(rng.integers(0, 9, IMAGES), jnp.int32)
    indexed = IndexedMaps(jnp.asarray(table), rows, (CHANNELS, REGIONS))
    labels = jnp.asarray(rng.integers(0, CLASSES - 1, IMAGES), jnp.int32)
    objective = Objective.from_config(config, 2)
    taught = None
    if config.teacher.workdir:
        taught = network.definition, ModelState(network.params, network.frozen, classes)

    @jax.jit
    def of(inputs: Any) -> Any:
        batch = Batch(inputs, labels)
        return loss_and_gradients(
            network.definition,
            network.params,
            batch,
            classes,
            objective,
            network.frozen,
            teacher=taught,
        )

    for x, y in zip(
        jax.tree.leaves(of(indexed)), jax.tree.leaves(of(indexed.array())), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6 * float(jnp.abs(y).max()) + 1e-9)
