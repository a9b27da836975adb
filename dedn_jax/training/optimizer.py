"""The published optimiser, made of optax pieces."""

from __future__ import annotations

from typing import Any

import jax
import optax
from ml_collections import ConfigDict


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """RMSprop as PyTorch defines it, from `config.optimizer`.

    L2 weight decay is added to the gradient; the second moment has no bias correction and ε is
    added after its root; momentum accumulates the scaled gradient. Source: torch.optim.RMSprop.

    A trained backbone has its own learning rate, `config.backbone.learning_rate`.
    """
    experts = _rmsprop(config.optimizer, config.optimizer.learning_rate)
    if not (config.data.source == "images" and config.backbone.trained):
        return experts
    backbone = _rmsprop(config.optimizer, config.backbone.learning_rate)
    return optax.multi_transform({"experts": experts, "backbone": backbone}, _module_names)


def _rmsprop(o: ConfigDict, learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(o.weight_decay),
        optax.scale_by_rms(decay=o.decay, eps=o.epsilon, eps_in_sqrt=False),
        optax.trace(decay=o.momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def _module_names(params: Any) -> Any:
    """For each parameter, the name of the top-level module that owns it."""
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[0].key), params)
