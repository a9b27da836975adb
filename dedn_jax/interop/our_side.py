"""Our model and step, with the parameters, batches and names of the published code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.features.maps import normalize
from dedn_jax.data.pipeline import Batch
from dedn_jax.interop.convert import nested_to_state, state_to_nested
from dedn_jax.interop.problem import Problem
from dedn_jax.interop.published import Params
from dedn_jax.model import losses
from dedn_jax.model.groups import resolve_groups
from dedn_jax.training.network import build_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import init_state, loss_and_gradients, make_train_step


class OurSide:
    """Our model, objective and compiled step on a problem.

    Args:
      config: the recipe.
      problem: what both sides are given.
      params: initial parameters; None: the model's own.
    """

    def __init__(self, config: ConfigDict, problem: Problem, params: Params | None = None) -> None:
        groups = resolve_groups(config.data.groups, problem.word_vectors)
        channels, side = problem.maps
        network = build_network(
            config, problem.word_vectors, groups, channels=channels, regions=side * side
        )
        self.model, self.params = network.definition, network.params
        if params:
            self.params = nested_to_state(params, network.params, "the published model")
        self.objective = Objective.from_config(config)
        self.classes = make_class_space(problem.class_embeddings, problem.seen, groups)
        optimizer = make_optimizer(config)
        self.state = init_state(jax.tree.map(jnp.copy, self.params), optimizer)
        step = jax.jit(make_train_step(self.model, self.objective, optimizer), donate_argnums=0)
        first = self.batch(*problem.batches[0])
        self.compiled = step.lower(self.state, first, self.classes).compile()

    def batch(self, features: np.ndarray, labels: np.ndarray) -> Batch:
        """A training batch: regions flattened, features normalised as when data are read."""
        flat = features.reshape(*features.shape[:2], -1)
        return Batch(jnp.asarray(normalize(flat, np.float32)), jnp.asarray(labels, jnp.int32))

    def outputs(self, batch: Batch) -> dict[str, np.ndarray]:
        """Scores under the names of `PublishedModel.outputs`, in training mode."""
        coarse, fine = nnx.merge(self.model, self.params)(batch.inputs)
        result: dict[str, jax.Array] = {}
        for name, p in (("coarse", coarse), ("fine", fine)):
            result[f"region_scores_{name}"] = p.region
            result[f"channel_scores_{name}"] = p.channel
            result[f"attribute_scores_{name}"] = p.for_training()
            result[f"class_scores_{name}"] = losses.class_scores(
                p.for_training(), self.classes.embeddings, self.classes.seen, self.objective.bias
            )
        return {name: np.asarray(value) for name, value in result.items()}

    def losses_and_gradients(self, batch: Batch) -> tuple[dict[str, float], Params]:
        """Loss terms under the names of `PublishedModel.losses`, and gradients."""
        terms, gradients = loss_and_gradients(
            self.model, self.params, batch, self.classes, self.objective
        )
        values = {name: float(value) for name, value in terms.items()}
        return {**values, "total": values["loss"]}, state_to_nested(gradients)

    def step(self, batch: Batch) -> None:
        """One training step; returns when the parameters are updated."""
        self.state, _ = self.compiled(self.state, batch, self.classes)
        jax.block_until_ready(self.state)
