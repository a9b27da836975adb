"""A made-up batch on which every objective has something to decide, and every objective's cases."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dedn_jax.config import base_config
from dedn_jax.model import losses
from dedn_jax.model.distillation import OBJECTIVES, Peers
from dedn_jax.model.experts import AttributeScores, PerExpert
from tests.model.distillation.formulas import Said, Setting

IMAGES, CLASSES, GROUPS = 6, 7, (2, 3)
ATTRIBUTES = sum(GROUPS)
Options = dict[str, Any]


def default_options(name: str) -> Options:
    """The keyword arguments that `configs/base.py` gives an objective."""
    fields = base_config().loss.distillation[name].to_dict()
    return {field: value for field, value in fields.items() if field != "weight"}


# By name, with every option at its default; and with each of them at another value.
CASES: dict[str, tuple[str, Options]] = {name: (name, default_options(name)) for name in OBJECTIVES}
CASES |= {
    f"{name}, {what}": (name, default_options(name) | options)
    for name, what, options in (
        ("kl", "held", {"stop_gradient": True, "coarse_weight": 0.3}),
        ("kl", "one way, without d", {"scale": False, "bias": False, "fine_weight": 0.0}),
        ("js", "cold", {"temperature": 0.7}),
        ("balanced_kl", "plain", {"temperature": 1.0, "emphasis": 1.0}),
        ("selective", "by group", {"temperature": 1.0, "by_group": True}),
        ("sinkhorn", "blurred, few", {"temperature": 1.0, "epsilon": 1.0, "iterations": 3}),
        ("decoupled", "cold", {"temperature": 0.8, "target_weight": 3.0, "other_weight": 0.5}),
        ("relational", "images", {"temperature": 2.0, "attribute_weight": 0.0}),
        ("relational", "attributes", {"image_weight": 0.0, "attribute_weight": 2.0}),
        ("confident", "cold", {"temperature": 0.9}),
        ("dual_head", "cold", {"temperature": 0.8}),
    )
}


def setting() -> Setting:
    z = np.random.default_rng(5).uniform(size=(CLASSES, ATTRIBUTES)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    seen = np.array([True, True, False, True, False, True, True])
    return Setting(z.astype(np.float64), seen, np.array([0, 3, 6, 1, 0, 5]), 1.0, GROUPS)


def said(seed: int = 0) -> Said:
    """Numbers that float32 holds; classes show in them, so that some images are got right."""
    rng, at = np.random.default_rng(seed), setting()

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    shown = np.float32(8 * (at.z - at.z.mean(0)))[at.labels].astype(np.float64)
    coarse, fine = (shown + 2 * draw(IMAGES, ATTRIBUTES) for _ in range(2))
    dropped = (p + draw(IMAGES, ATTRIBUTES) for p in (coarse, fine))
    heads = (np.eye(ATTRIBUTES) + 0.3 * draw(ATTRIBUTES, ATTRIBUTES) for _ in range(2))
    return Said(*map(np.float64, map(np.float32, (coarse, fine, *dropped, *heads))))


Arrays = tuple[
    PerExpert[AttributeScores], PerExpert[AttributeScores], PerExpert[jax.Array]
]  # whole maps, dropped maps, heads


def arrays_of(x: Said) -> Arrays:
    """As the package takes them: a share of each score from either branch."""

    def branches(p: np.ndarray) -> AttributeScores:
        region = np.float32(0.25 * p)
        return AttributeScores(jnp.asarray(region), jnp.asarray(np.float32(p - region)))

    heads = (jnp.asarray(h, jnp.float32) for h in (x.coarse_head, x.fine_head))
    return (
        PerExpert(branches(x.coarse), branches(x.fine)),
        PerExpert(branches(x.dropped_coarse), branches(x.dropped_fine)),
        PerExpert(*heads),
    )


def peers_of(
    arrays: Arrays,
    mean: losses.BatchMean = losses.MEAN,
    labels: jax.Array | None = None,
    at: Setting | None = None,
) -> Peers:
    at = at or setting()
    whole, dropped, heads = arrays
    return Peers.of(
        attributes=whole,
        embeddings=jnp.asarray(at.z, jnp.float32),
        seen=jnp.asarray(at.seen),
        labels=jnp.asarray(at.labels) if labels is None else labels,
        bias=at.bias,
        group_sizes=at.group_sizes,
        mean=mean,
        dropped=dropped,
        heads=heads,
    )


@functools.cache
def value_and_gradient(case: str) -> Callable[[Arrays], tuple[jax.Array, Arrays]]:
    """Of an objective, by everything that the experts say; compiled, as in training."""
    name, options = CASES[case]
    return jax.jit(jax.value_and_grad(lambda arrays: OBJECTIVES[name](peers_of(arrays), **options)))


def gradient_of(arrays: Arrays) -> Said:
    """A gradient by fields of `Said`, from the region branch; the channel branch has the same."""
    whole, dropped, heads = arrays
    for expert in (*whole, *dropped):
        np.testing.assert_array_equal(expert.region, expert.channel)
    views = (p.region for p in (*whole, *dropped))
    return Said(*(np.asarray(x, np.float64) for x in (*views, *heads)))
