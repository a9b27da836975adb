"""Backbones whose numbers do not matter, but which have some."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from dedn_jax.model.backbones.layers import Backbone


def filled(make: Callable[[], Backbone]) -> Backbone:
    """What `make` gives, with numbers from 0.5 to 1.5 by NumPy.

    JAX compiles a program for every shape of numbers that it draws: 4 s for a ResNet-18.
    """
    rng, backbone = np.random.default_rng(1), nnx.eval_shape(make)
    state = nnx.state(backbone)
    values = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), state)
    nnx.update(backbone, values)
    return backbone
