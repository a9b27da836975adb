"""Runs the published PyTorch code beside ours on the same weights and batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.features.maps import normalize
from dedn_jax.data.pipeline import Batch
from dedn_jax.interop.convert import nested_to_state, state_to_nested
from dedn_jax.interop.problem import Problem, file_problem, published_model_name, random_problem
from dedn_jax.interop.published import Params
from dedn_jax.interop.published_model import PublishedModel, Recipe
from dedn_jax.interop.reference import load_reference
from dedn_jax.model import losses
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.progress import progress
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import init_state, loss_and_gradients, make_train_step

_TINY = float(np.finfo(np.float32).tiny)


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


def relative_difference(ours: Any, theirs: Any) -> float:
    """Largest absolute difference over the largest magnitude in `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) / max(float(np.abs(theirs).max()), _TINY)


def relative_rms(ours: Any, theirs: Any) -> float:
    """Root mean square difference over the root mean square of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs)) / max(float(np.linalg.norm(theirs)), _TINY)


def _differences(
    ours: Params, theirs: Params, measure: Callable[[Any, Any], float] = relative_difference
) -> dict[str, float]:
    """`measure` of every tensor, by name."""
    found = {f"coarse.{k}": measure(ours["coarse"][k], v) for k, v in theirs["coarse"].items()}
    for g, network in enumerate(theirs["fine"]):
        found |= {f"fine[{g}].{k}": measure(ours["fine"][g][k], v) for k, v in network.items()}
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
    float64: bool = False,
) -> dict[str, Any]:
    """Runs both codes and measures how far apart they are.

    Args:
      reference_dir: a checkout of zjrao/DEDN.
      config: a published recipe.
      features: a feature file in the published layout; None: random features.
      steps: optimiser steps of the trajectory and of the timing.
      channels, side, classes: sizes of random features; classes are (seen, unseen), None for the
        proposed splits' counts.
      float64: also walk the published code in float64, to see its own rounding.

    Returns:
      `outputs_max_rel`, `losses_max_rel`, `gradients_max_rel`, `trajectory_max_rel`: largest
      absolute difference over the largest magnitude in the published tensor, the worst tensor;
      `trajectory_rms_rel`: root mean square difference over root mean square, worst tensor;
      `rounding_max_rel` and `rounding_rms_rel` with `float64`: the published code in float32
      against itself in float64 after as many steps, as for the trajectory. RMSprop's first steps
      are nearly `sign(gradient)`, so that a few elements with gradients of rounding size take
      another way in any two float32 programs;
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
    initial = theirs.params()
    with jax.default_matmul_precision(config.model.precision):
        ours = OurSide(config, problem, initial)
        details = _one_batch(ours, theirs, *problem.batches[0])
        step_ms = _walk(ours, theirs, problem, steps)
    after, ours_after = theirs.params(), state_to_nested(ours.state.params)
    details["trajectory"] = _differences(ours_after, after)
    report: dict[str, Any] = {
        "recipe_model": theirs.reference.dataset,
        "problem": problem.description,
        "steps": steps,
        **{f"{name}_max_rel": max(values.values()) for name, values in details.items()},
        "trajectory_rms_rel": max(_differences(ours_after, after, relative_rms).values()),
        "step_ms": step_ms,
        "ratio": step_ms["reference"] / step_ms["ours"],
        "details": details,
    }
    if float64:
        theirs.load_params(initial)
        exact = _walk_float64(theirs, problem, steps)
        report["rounding_max_rel"] = max(_differences(after, exact).values())
        report["rounding_rms_rel"] = max(_differences(after, exact, relative_rms).values())
    return report


def _one_batch(
    ours: OurSide, theirs: PublishedModel, features: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """Relative differences of every output, loss term and gradient of one training batch."""
    batch = ours.batch(features, labels)
    found = ours.outputs(batch)
    terms, gradients = ours.losses_and_gradients(batch)
    outputs = theirs.outputs(features, training=True)
    losses_there = theirs.losses(features, labels)
    return {
        "outputs": {k: relative_difference(found[k], v) for k, v in outputs.items()},
        "losses": {k: relative_difference(terms[k], v) for k, v in losses_there.items()},
        "gradients": _differences(gradients, theirs.gradients(features, labels)),
    }


def _walk_float64(theirs: PublishedModel, problem: Problem, steps: int) -> Params:
    """The published code's parameters after `steps` steps in float64."""
    import torch

    theirs.module.double()
    theirs.make_optimizer()
    bar = progress(steps, "published, float64", "step", delay=2)
    for step in range(steps):
        features, labels = problem.batches[step % len(problem.batches)]
        theirs.step(torch.from_numpy(features).double(), labels)
        bar.update()
    bar.close()
    return theirs.params()


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
    lines.append(f"  {'(root mean square)':<28}{report['trajectory_rms_rel']:9.1e}")
    if "rounding_max_rel" in report:
        lines.append(
            f"Published code in float32 against itself in float64 after {report['steps']} steps: "
            f"{report['rounding_max_rel']:.1e} (root mean square "
            f"{report['rounding_rms_rel']:.1e})"
        )
    ms = report["step_ms"]
    lines.append(
        f"Train step, median of {report['steps']}, interleaved: published "
        f"{ms['reference']:.0f} ms, ours {ms['ours']:.0f} ms, ratio {report['ratio']:.2f}"
    )
    return "\n".join(lines)
