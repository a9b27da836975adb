"""How strongly each distillation objective pulls, beside the cross-entropy, as training goes on.

  python -m benchmarks.distillation_gradients --features=STORE|FILE.hdf5 [--recipe=cub_gzsl] \
      [--objectives=agreement,kl] [--steps=0,10,20,40,80,160,320] [--json=FILE]

At each step: the norm of the objective's gradient over that of the rest of the loss, the cosine of
the two, and the mean distance of the experts' class scores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.arguments import integers, run_benchmark, show_report
from benchmarks.common import environment, text_table
from dedn_jax.config import load_config
from dedn_jax.data.dataset import trainval_task
from dedn_jax.data.load import load_dataset
from dedn_jax.data.pipeline import Batch
from dedn_jax.data.sampler import Sampler
from dedn_jax.model.groups import resolve_groups
from dedn_jax.model.losses import class_scores
from dedn_jax.training.network import make_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import init_state, loss_and_gradients, make_train_step


def follow(recipe: str, source: Sequence[str], name: str, marks: list[int]) -> list[dict[str, Any]]:
    """Trains with an objective, and compares its gradient with the rest at every mark."""
    config = load_config(recipe, [*source, f"--config.loss.distillation.name={name}"])
    dataset = load_dataset(config)
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network, task = make_network(config, dataset, groups), trainval_task(dataset)
    classes = make_class_space(task.class_embeddings, task.seen, groups)
    sampler = Sampler.from_config(task.train, task.labels[task.train], config, 1)
    per_epoch = len(task.train) / config.train.batch_size
    whole, optimizer = Objective.from_config(config, per_epoch), make_optimizer(config)
    alone = dataclasses.replace(
        whole, distillation=dataclasses.replace(whole.distillation, weights={})
    )
    definition, state = network.definition, init_state(network.params, optimizer)
    step = jax.jit(make_train_step(definition, whole, optimizer), donate_argnums=0)

    @jax.jit
    def compare(params: nnx.State, batch: Batch) -> dict[str, Any]:
        _, rest = loss_and_gradients(definition, params, batch, classes, alone)
        _, both = loss_and_gradients(definition, params, batch, classes, whole)
        pull = jax.tree.map(jnp.subtract, both, rest)
        norms = optax.tree.norm(pull), optax.tree.norm(rest)
        coarse, fine = (
            class_scores(p.for_training(), classes.embeddings, classes.seen, 0.0)
            for p in nnx.merge(definition, params)(batch.inputs)
        )
        return {
            "over the rest": norms[0] / norms[1],
            "cosine": optax.tree.vdot(pull, rest) / (norms[0] * norms[1]),
            "distance": jnp.abs(coarse - fine).mean(),
        }

    rows = []
    for number in range(max(marks) + 1):
        drawn = sampler(number)
        batch = Batch(jnp.asarray(task.inputs[drawn]), jnp.asarray(task.labels[drawn], jnp.int32))
        if number in marks:
            found = compare(jax.tree.map(jnp.copy, state.params), batch)
            rows.append(
                {"objective": name, "step": number, **{k: float(v) for k, v in found.items()}}
            )
        state, _ = step(state, batch, classes)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Follows each objective, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cub_gzsl", help="name of a recipe")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--objectives", default="agreement,kl")
    parser.add_argument("--steps", default="0,10,20,40,80,160,320", help="comma-separated")
    parser.add_argument("--json", type=Path)
    args, overrides = parser.parse_known_args(argv)
    source = [f"--config.data.path={args.features}"]
    if args.features.is_dir():
        source.append("--config.data.format=store")
    marks = integers("--steps", args.steps)
    rows = [
        row
        for name in args.objectives.split(",")
        for row in follow(args.recipe, [*overrides, *source], name.strip(), marks)
    ]
    table = text_table(rows, ["objective", "step", "over the rest", "cosine", "distance"])
    report = {"environment": environment(), "rows": rows}
    show_report("\n".join(table), report, args.json)


if __name__ == "__main__":
    run_benchmark("distillation_gradients", main)
