"""Optimisers and learning rate schedules, made of optax pieces.

To add an optimiser: a function in `_OPTIMIZERS`, and its name in `dedn_jax.config_ranges`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from dedn_jax.training.averaging import average_parameters

Norm = Callable[[Any], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """From gradients to updates of the parameters.

    Attributes:
      transform: what optax makes of a gradient; its state counts the steps of the schedule.
      schedule: the learning rate of the experts after so many steps; None: it is constant.
    """

    transform: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule | None

    def init(self, params: Any, schedule_step: Int[Array, ""] | int = 0) -> optax.OptState:
        """The state before the first step.

        Args:
          params: what will be updated.
          schedule_step: where the schedule is taken up.
        """

        def taken_up(part: Any) -> Any:
            # An array for each: a step reuses the memory of all.
            return (
                part._replace(count=jnp.array(schedule_step, jnp.int32)) if _counts(part) else part
            )

        return jax.tree.map(taken_up, self.transform.init(params), is_leaf=_counts)

    def update(
        self,
        gradients: Any,
        state: optax.OptState,
        params: Any,
        norm: Norm = optax.tree.norm,
    ) -> tuple[Any, optax.OptState]:
        """The updates that are added to `params`, and the state after the step.

        Args:
          gradients, state, params: of the step.
          norm: of a gradient, by which it is clipped.
        """
        return self.transform.update(gradients, state, params, norm=norm)

    def learning_rate(self, state: optax.OptState) -> Float[Array, ""] | None:
        """That of the experts in the next step; None where it is constant."""
        if self.schedule is None:
            return None
        parts = jax.tree.leaves(state, is_leaf=_counts)
        # A trained backbone counts the same steps once more.
        count = next(part.count for part in parts if _counts(part))
        return jnp.asarray(self.schedule(count), jnp.float32)


def _counts(part: Any) -> bool:
    """Whether a part of an optimiser's state counts the steps of a schedule."""
    return isinstance(part, optax.ScaleByScheduleState)


def make_optimizer(config: ConfigDict, steps_per_epoch: float = 1.0) -> Optimizer:
    """The optimiser and schedule of `config.optimizer`.

    A trained backbone has its own learning rate, `config.backbone.learning_rate`, and all else in
    common with the experts: its gradient is clipped together with theirs.

    Args:
      config: a checked config.
      steps_per_epoch: of the phase; a schedule is over `config.train.epochs`.
    """
    o, share = config.optimizer, _schedule(config, steps_per_epoch)
    scale = config.train.batch_size / o.reference_batch if o.scale_with_batch else 1.0

    def scheduled(learning_rate: float) -> optax.ScalarOrSchedule:
        highest = learning_rate * scale
        return highest if share is None else lambda count: highest * share(count)

    learning_rate = scheduled(o.learning_rate)
    transform = _OPTIMIZERS[o.name](o, learning_rate)
    if config.data.source == "images" and config.backbone.trained:
        backbone = _OPTIMIZERS[o.name](o, scheduled(config.backbone.learning_rate))
        transform = optax.multi_transform(
            {"experts": transform, "backbone": backbone}, _module_names
        )
    if o.clip_norm:
        transform = optax.chain(_clip_by_norm(o.clip_norm), transform)
    if o.ema_decay:
        transform = average_parameters(transform, o.ema_decay)
    schedule = learning_rate if callable(learning_rate) else None
    return Optimizer(optax.with_extra_args_support(transform), schedule)


def _clip_by_norm(largest: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm` with the norm that it is given, which may be over devices."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        found = extra["norm"](updates)

        def clipped(x: Array) -> Array:
            return jnp.where(found < largest, x, x / found.astype(x.dtype) * largest)

        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _schedule(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule | None:
    """The share of the learning rate after so many steps; None: always 1."""
    o = config.optimizer
    warmup = o.warmup_epochs * steps_per_epoch
    after = optax.constant_schedule(1.0)
    if o.schedule == "cosine":
        steps = config.train.epochs * steps_per_epoch - warmup
        after = optax.cosine_decay_schedule(1.0, steps, alpha=o.final_fraction)
    if warmup:
        rise = optax.linear_schedule(0.0, 1.0, warmup)
        return optax.join_schedules([rise, after], [warmup])
    return after if o.schedule == "cosine" else None


def _rmsprop(o: ConfigDict, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """As PyTorch defines it, the published optimiser.

    L2 weight decay is added to the gradient; the second moment has no bias correction and ε is
    added after its root; momentum accumulates the scaled gradient. Source: torch.optim.RMSprop.
    """
    return optax.chain(
        optax.add_decayed_weights(o.weight_decay),
        optax.scale_by_rms(decay=o.decay, eps=o.epsilon, eps_in_sqrt=False),
        optax.trace(decay=o.momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def _adamw(o: ConfigDict, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Weight decay decoupled from the gradient. Source: Loshchilov and Hutter, arXiv 1711.05101."""
    return optax.adamw(
        learning_rate, b1=o.momentum, b2=o.decay, eps=o.epsilon, weight_decay=o.weight_decay
    )


def _sgd(o: ConfigDict, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Momentum and L2 weight decay as PyTorch has them. Source: torch.optim.SGD."""
    return optax.chain(
        optax.add_decayed_weights(o.weight_decay), optax.sgd(learning_rate, momentum=o.momentum)
    )


def _lion(o: ConfigDict, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The sign of a momentum; weight decay decoupled. Source: Chen et al., arXiv 2302.06675."""
    return optax.lion(learning_rate, b1=o.momentum, b2=o.decay, weight_decay=o.weight_decay)


_OPTIMIZERS: dict[
    str, Callable[[ConfigDict, optax.ScalarOrSchedule], optax.GradientTransformation]
] = {"rmsprop": _rmsprop, "adamw": _adamw, "sgd": _sgd, "lion": _lion}


def _module_names(params: Any) -> Any:
    """For each parameter, the name of the top-level module that owns it."""
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[0].key), params)
