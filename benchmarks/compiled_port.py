"""The train step of the PyTorch port in `tests/parity/port.py`: eager, and with torch.compile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from ml_collections import ConfigDict

from dedn_jax.interop.problem import Problem
from dedn_jax.interop.published import Params
from dedn_jax.model.groups import resolve_groups
from tests.parity.port import Port, make_port


class CompilablePort(Port):
    """The port as one graph: a mask as an index has a size that depends on data, and splits it."""

    def __init__(self, port: Port) -> None:
        super().__init__(**{f.name: getattr(port, f.name) for f in dataclasses.fields(port)})
        self._unseen = torch.nonzero(~port.seen)[:, 0]

    def calibration(self, class_scores: torch.Tensor) -> torch.Tensor:
        unseen = torch.softmax(class_scores, 1).index_select(1, self._unseen)
        return -torch.log(unseen.sum(1).mean())


def port_step(
    config: ConfigDict, problem: Problem, params: Params, compiled: bool
) -> Callable[[int], float]:
    """The step with a batch of the problem: takes its number, gives the loss before the update.

    Args:
      config: a published recipe.
      problem: batches and classes.
      params: to start from; copied.
      compiled: the loss as one graph, its backward pass with it, and the optimiser, by
        torch.compile. The first steps compile, and raise what fails.
    """
    groups = resolve_groups(config.data.groups, problem.word_vectors)
    membership = np.empty(groups.num_attributes, np.int64)
    for g, members in enumerate(groups.members):
        membership[list(members)] = g
    loss, optimizer = config.loss, config.optimizer
    port = make_port(
        params,
        attributes=problem.class_embeddings,
        groups=membership,
        seen=np.flatnonzero(problem.seen),
        bias=loss.bias,
        margin=loss.margin if loss.margin_aware else None,
        seen_margin=loss.seen_margin,
        calibration_weight=loss.calibration_weight,
        agreement_weight=loss.distillation.agreement.weight,
        alignment_weight=loss.alignment_weight,
    )
    rmsprop = torch.optim.RMSprop(
        [value for _, value in port.tensors()],
        lr=optimizer.learning_rate,
        alpha=optimizer.decay,
        eps=optimizer.epsilon,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
    )
    losses, update = port.losses, rmsprop.step
    if compiled:
        losses = torch.compile(CompilablePort(port).losses, fullgraph=True, dynamic=False)
        update = torch.compile(rmsprop.step)
    batches = [(torch.from_numpy(f), torch.from_numpy(labels)) for f, labels in problem.batches]

    def step(number: int) -> float:
        rmsprop.zero_grad()
        total = losses(*batches[number % len(batches)])["total"]
        total.backward()
        update()
        return total.item()

    return step
