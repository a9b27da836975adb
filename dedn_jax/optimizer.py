"""The published optimiser, made of optax pieces."""

from __future__ import annotations

import optax
from ml_collections import ConfigDict


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """RMSprop as PyTorch defines it, from `config.optimizer`.

    L2 weight decay is added to the gradient; the second moment has no bias correction and ε stands
    outside its root; momentum runs over the scaled gradient. Source: torch.optim.RMSprop.
    """
    o = config.optimizer
    return optax.chain(
        optax.add_decayed_weights(o.weight_decay),
        optax.scale_by_rms(decay=o.decay, eps=o.epsilon, eps_in_sqrt=False),
        optax.trace(decay=o.momentum),
        optax.scale_by_learning_rate(o.learning_rate),
    )
