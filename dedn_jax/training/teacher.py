"""A finished run as the teacher of another, for training on a pruned share of the images.

Source: distilling the knowledge in data pruning, arXiv 2403.07854: a model trained on a random
share of the images learns from one that was trained on all of them.
"""

from __future__ import annotations

import dataclasses

from flax import nnx

from dedn_jax.data.dataset import Task
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.training.network import TEACHER, Network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.other_run import params_digest
from dedn_jax.training.step import ModelState


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The finished run that `config.teacher.workdir` names.

    Attributes:
      network: its model.
      groups: of its attributes.
      params: the selected parameters, by phase.
    """

    network: Network
    groups: AttributeGroups
    params: dict[str, nnx.State]

    def state(self, phase: str, task: Task) -> ModelState:
        """For a phase: the teacher of a validation phase knows no validation class either."""
        classes = make_class_space(task.class_embeddings, task.seen, self.groups)
        return ModelState(self.params[phase], self.network.frozen, classes)

    def fingerprint(self) -> dict[str, object]:
        """The hash of its parameters, for what a run records; JSON-ready."""
        return {TEACHER: params_digest(self.params)}
