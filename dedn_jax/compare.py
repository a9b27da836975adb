"""Runs the published PyTorch code beside ours on the same weights and batches."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax import losses
from dedn_jax.data.features import normalize
from dedn_jax.data.load import load_dataset
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError
from dedn_jax.groups import AttributeGroups, resolve_groups
from dedn_jax.interop.convert import nested_to_state, state_to_nested
from dedn_jax.interop.published import Params
from dedn_jax.interop.reference import PublishedModel, Recipe, load_reference
from dedn_jax.model.experts import DualExpert
from dedn_jax.optimizer import make_optimizer
from dedn_jax.progress import progress
from dedn_jax.step import (
    Batch,
    ClassSpace,
    Objective,
    init_state,
    loss_and_gradients,
    make_class_space,
    make_train_step,
)

# Classes (seen, unseen) of the proposed splits, for comparisons on random features.
_PUBLISHED_CLASSES = {"cub": (150, 50), "sun": (645, 72), "awa2": (40, 10)}
_MODEL_OF_GROUPS = {"cub": "cub", "sun_released": "sun", "awa2": "awa2"}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What both sides are given.

    Attributes:
      description: where it came from.
      batches: `(features [batch, channels, side, side] float32 not normalised, labels [batch])`.
      word_vectors: `[attributes, word_dim]`.
      class_embeddings: `[classes, attributes]`.
      seen: `[classes]` bool.
    """

    description: str
    batches: list[tuple[np.ndarray, np.ndarray]]
    word_vectors: np.ndarray
    class_embeddings: np.ndarray
    seen: np.ndarray


def random_problem(
    config: ConfigDict, *, channels: int, side: int, batches: int, classes: tuple[int, int] | None
) -> Problem:
    """Features, embeddings and word vectors drawn at random, at a recipe's attribute count.

    Args:
      config: a published recipe; its groups decide the attribute and class counts.
      channels: C.
      side: regions are side x side.
      batches: how many.
      classes: seen and unseen; None: as in the proposed splits.
    """
    rng = np.random.default_rng(config.seed)
    dataset = published_model_name(config)
    seen, unseen = classes or _PUBLISHED_CLASSES[dataset]
    attributes = {"cub": 312, "sun": 102, "awa2": 85}[dataset]
    # As after a ReLU: non-negative, about half of it zero.
    shape = (config.train.batch_size, channels, side, side)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        features = np.maximum(rng.standard_normal(shape, np.float32), 0)
        return features, rng.integers(0, seen, shape[0])

    return Problem(
        f"random features {list(shape)}, {attributes} attributes, {seen} + {unseen} classes",
        [batch() for _ in range(batches)],
        rng.standard_normal((attributes, 300), np.float32),
        rng.random((seen + unseen, attributes), np.float32),
        np.arange(seen + unseen) < seen,
    )


def file_problem(config: ConfigDict, features: Path, batches: int) -> Problem:
    """Batches of a feature file, drawn by the recipe's sampler.

    Raises:
      InputError: the file is not usable, or its maps are not square.
    """
    config = config.copy_and_resolve_references()
    config.data.path = str(features)
    dataset = load_dataset(config)
    side = round(dataset.features.regions**0.5)
    if side * side != dataset.features.regions:
        raise InputError(f"{features}: feature maps are not square; the published code needs that")
    sampler = Sampler(
        dataset.trainval,
        dataset.labels[dataset.trainval],
        config.train.batch_size,
        config.train.balanced,
        config.seed,
        0,
    )
    drawn = []
    for step in range(batches):
        images = sampler(step)
        maps = np.asarray(dataset.features[images], np.float32)
        drawn.append((maps.reshape(len(images), -1, side, side), dataset.labels[images]))
    seen = np.isin(np.arange(dataset.num_classes), dataset.seen_classes)
    return Problem(
        f"{features.name}, batches of {sampler.size}",
        drawn,
        dataset.word_vectors,
        dataset.class_embeddings,
        seen,
    )


def published_model_name(config: ConfigDict) -> str:
    """`cub`, `sun` or `awa2`: the published model a recipe is for.

    Raises:
      InputError: the recipe's groups are not those of a published model.
    """
    name = _MODEL_OF_GROUPS.get(config.data.groups)
    if name is None:
        raise InputError(
            f"config.data.groups={config.data.groups!r}: the published code has models for "
            f"{', '.join(_MODEL_OF_GROUPS)} only; choose such a recipe to compare"
        )
    return name


class OurSide:
    """Our model, objective and compiled step on a problem, with given parameters."""

    def __init__(self, config: ConfigDict, problem: Problem, params: Params | None = None) -> None:
        """Builds and compiles; without `params` the model keeps its own initial parameters."""
        groups: AttributeGroups = resolve_groups(config.data.groups, problem.word_vectors)
        _, channels, side, _ = problem.batches[0][0].shape
        module = DualExpert(
            problem.word_vectors,
            groups,
            channels=channels,
            regions=side * side,
            rank=config.model.rank,
            rngs=nnx.Rngs(params=config.seed),
        )
        self.model, like = nnx.split(module)
        self.params = nested_to_state(params, like, "the published model") if params else like
        self.objective = Objective.from_config(config)
        self.classes: ClassSpace = make_class_space(problem.class_embeddings, problem.seen, groups)
        optimizer = make_optimizer(config)
        self.state = init_state(jax.tree.map(jnp.copy, self.params), optimizer)
        step = jax.jit(make_train_step(self.model, self.objective, optimizer), donate_argnums=0)
        first = self.batch(*problem.batches[0])
        self.compiled = step.lower(self.state, first, self.classes).compile()

    def batch(self, features: np.ndarray, labels: np.ndarray) -> Batch:
        """A batch as training gets it: regions flattened, normalised when the data were read."""
        flat = features.reshape(*features.shape[:2], -1)
        return Batch(jnp.asarray(normalize(flat, np.float32)), jnp.asarray(labels, jnp.int32))

    def outputs(self, batch: Batch) -> dict[str, np.ndarray]:
        """Scores under the names of `PublishedModel.outputs`, in training mode."""
        coarse, fine = nnx.merge(self.model, self.params)(batch.features)
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


def relative_difference(ours: Any, theirs: Any) -> float:
    """Largest absolute difference over the largest magnitude in `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), np.finfo(np.float32).tiny))


def _differences(ours: Params, theirs: Params) -> dict[str, float]:
    """Relative difference of every tensor, by name."""
    found = {
        f"coarse.{k}": relative_difference(ours["coarse"][k], v)
        for k, v in theirs["coarse"].items()
    }
    for g, network in enumerate(theirs["fine"]):
        found |= {
            f"fine[{g}].{k}": relative_difference(ours["fine"][g][k], v) for k, v in network.items()
        }
    return found


def _with_attention(params: Params, seed: int) -> Params:
    """Gives the attention matrices, zero at the start, small values, so that they are tested."""
    rng = np.random.default_rng(seed)

    def filled(network: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            k: 0.1 * rng.standard_normal(v.shape, np.float32) if k.endswith("_attention") else v
            for k, v in network.items()
        }

    return {"coarse": filled(params["coarse"]), "fine": [filled(n) for n in params["fine"]]}


def build_published(
    reference_dir: str | Path, config: ConfigDict, problem: Problem
) -> PublishedModel:
    """The published model for a problem, with attention matrices that are not zero.

    Raises:
      InputError: no such checkout, or a recipe the published code cannot run.
    """
    reference = load_reference(reference_dir, published_model_name(config))
    _, channels, side, _ = problem.batches[0][0].shape
    model = PublishedModel.build(
        reference,
        Recipe.from_config(config, reference),
        word_vectors=problem.word_vectors,
        class_embeddings=problem.class_embeddings,
        seen=np.flatnonzero(problem.seen),
        unseen=np.flatnonzero(~problem.seen),
        channels=channels,
        side=side,
        seed=config.seed,
    )
    model.load_params(_with_attention(model.params(), config.seed))
    return model


def compare(
    reference_dir: str | Path,
    config: ConfigDict,
    *,
    features: Path | None = None,
    steps: int = 20,
    channels: int = 1024,
    side: int = 7,
    classes: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Runs both codes and measures how far apart they are.

    Args:
      reference_dir: a checkout of zjrao/DEDN.
      config: a published recipe.
      features: a feature file in the published layout; None: random features.
      steps: optimiser steps of the trajectory and of the timing.
      channels, side, classes: sizes of random features; classes are (seen, unseen), None for the
        proposed splits' counts.

    Returns:
      `outputs_max_rel`, `losses_max_rel`, `gradients_max_rel`, `trajectory_max_rel`: largest
      absolute difference over the largest magnitude in the published tensor, the worst tensor;
      `details`: the same by tensor; `step_ms`: median of `ours` and of `reference`, steps
      interleaved; `ratio`: reference over ours; `problem`, `recipe_model`, `steps`.

    Raises:
      InputError: no such checkout, or a recipe or file the published code cannot run.
    """
    problem = (
        file_problem(config, features, min(steps, 20))
        if features
        else random_problem(
            config, channels=channels, side=side, batches=min(steps, 4), classes=classes
        )
    )
    theirs = build_published(reference_dir, config, problem)
    with jax.default_matmul_precision(config.model.precision):
        ours = OurSide(config, problem, theirs.params())
        first, labels = problem.batches[0]
        batch = ours.batch(first, labels)
        expected = theirs.outputs(first, training=True)
        found = ours.outputs(batch)
        outputs = {k: relative_difference(found[k], v) for k, v in expected.items()}
        terms, gradients = ours.losses_and_gradients(batch)
        published_terms = theirs.losses(first, labels)
        loss_terms = {k: relative_difference(terms[k], v) for k, v in published_terms.items()}
        gradient = _differences(gradients, theirs.gradients(first, labels))
        step_ms = _walk(ours, theirs, problem, steps)
    trajectory = _differences(state_to_nested(ours.state.params), theirs.params())
    return {
        "recipe_model": theirs.reference.dataset,
        "problem": problem.description,
        "steps": steps,
        "outputs_max_rel": max(outputs.values()),
        "losses_max_rel": max(loss_terms.values()),
        "gradients_max_rel": max(gradient.values()),
        "trajectory_max_rel": max(trajectory.values()),
        "step_ms": step_ms,
        "ratio": step_ms["reference"] / step_ms["ours"],
        "details": {
            "outputs": outputs,
            "losses": loss_terms,
            "gradients": gradient,
            "trajectory": trajectory,
        },
    }


def _walk(ours: OurSide, theirs: PublishedModel, problem: Problem, steps: int) -> dict[str, float]:
    """Does `steps` optimiser steps on both sides, turn by turn; median milliseconds of each."""
    theirs.make_optimizer()
    prepared = [ours.batch(*pair) for pair in problem.batches]
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    bar = progress(steps, "steps of both", "step", delay=2)
    for step in range(steps):
        index = step % len(prepared)
        start = time.perf_counter()
        theirs.step(*problem.batches[index])
        middle = time.perf_counter()
        ours.step(prepared[index])
        times["reference"].append(1e3 * (middle - start))
        times["ours"].append(1e3 * (time.perf_counter() - middle))
        bar.update()
    bar.close()
    return {name: float(np.median(values)) for name, values in times.items()}


def comparison_text(report: dict[str, Any]) -> str:
    """What `dedn compare` prints."""
    lines = [
        f"Published {report['recipe_model']} model beside ours; {report['problem']}",
        "Largest difference, relative to the largest magnitude in the published tensor:",
    ]
    for name in ("outputs", "losses", "gradients", "trajectory"):
        details = report["details"][name]
        worst = max(details, key=details.get)
        after = f" after {report['steps']} steps" if name == "trajectory" else ""
        lines.append(f"  {name + after:<28}{report[name + '_max_rel']:9.1e}  ({worst})")
    ms = report["step_ms"]
    lines.append(
        f"Train step, median of {report['steps']}, interleaved: published "
        f"{ms['reference']:.0f} ms, ours {ms['ours']:.0f} ms, ratio {report['ratio']:.2f}"
    )
    return "\n".join(lines)
