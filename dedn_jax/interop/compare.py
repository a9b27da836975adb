"""Runs the published PyTorch code beside ours on the same weights and batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.interop.convert import state_to_nested
from dedn_jax.interop.our_side import OurSide
from dedn_jax.interop.problem import Problem, file_problem, published_model_name, random_problem
from dedn_jax.interop.published import Network, Params
from dedn_jax.interop.published_model import PublishedModel, Recipe
from dedn_jax.interop.reference import load_reference
from dedn_jax.progress import progress

_TINY = float(np.finfo(np.float32).tiny)


def compare(
    reference_dir: str | Path,
    config: ConfigDict,
    *,
    features: Path | None = None,
    steps: int = 20,
    channels: int = 1024,
    side: int = 7,
    float64: bool = False,
) -> dict[str, Any]:
    """Runs both codes and measures how far apart they are.

    Args:
      reference_dir: a checkout of zjrao/DEDN.
      config: a published recipe.
      features: a feature file in the published layout; None: random features.
      steps: optimiser steps of the trajectory and of the timing.
      channels, side: of random features.
      float64: also run the published code in float64, to measure its own rounding.

    Returns:
      `outputs_max_rel`, `losses_max_rel`, `gradients_max_rel`, `trajectory_max_rel`: largest
      absolute difference over the largest magnitude in the published tensor, the worst tensor;
      `trajectory_rms_rel`: root mean square difference over root mean square, worst tensor;
      `rounding_max_rel` and `rounding_rms_rel` with `float64`: the same two for the published
      code's parameters in float32 and in float64. RMSprop's first steps are nearly
      `sign(gradient)`, so that a few elements with gradients of rounding size move apart in any
      two float32 programs;
      `details`: the same by tensor; `step_ms`: median of `ours` and of `reference`, steps
      interleaved; `ratio`: reference over ours; `problem`, `recipe_model`, `steps`.

    Raises:
      InputError: no such checkout, or a recipe or file the published code cannot run.
    """
    if features:
        problem = file_problem(config, features, min(steps, 20))
    else:
        problem = random_problem(config, channels=channels, side=side, batches=min(steps, 4))
    theirs = build_published(reference_dir, config, problem)
    initial = theirs.params()
    with jax.default_matmul_precision(config.model.precision):
        ours = OurSide(config, problem, initial)
        details = _one_batch(ours, theirs, *problem.batches[0])
        step_ms = _run_both(ours, theirs, problem, steps)
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
        exact = _run_float64(theirs, problem, steps)
        report["rounding_max_rel"] = max(_differences(after, exact).values())
        report["rounding_rms_rel"] = max(_differences(after, exact, relative_rms).values())
    return report


def build_published(
    reference_dir: str | Path, config: ConfigDict, problem: Problem, device: str = "cpu"
) -> PublishedModel:
    """The published model for a problem, with attention matrices that are not zero.

    Raises:
      InputError: no such checkout, or a recipe the published code cannot run.
    """
    reference = load_reference(reference_dir, published_model_name(config))
    model = PublishedModel.build(
        reference,
        Recipe.from_config(config, reference),
        word_vectors=problem.word_vectors,
        class_embeddings=problem.class_embeddings,
        seen=problem.seen,
        maps=problem.maps,
        seed=config.seed,
        device=device,
    )
    rng = np.random.default_rng(config.seed)

    def with_attention(network: Network) -> Network:
        return {
            k: 0.1 * rng.standard_normal(v.shape, np.float32) if k.endswith("_attention") else v
            for k, v in network.items()
        }

    params = model.params()
    coarse = with_attention(params["coarse"])
    model.load_params({"coarse": coarse, "fine": [with_attention(n) for n in params["fine"]]})
    return model


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


def _one_batch(
    ours: OurSide, theirs: PublishedModel, features: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """Relative differences of every output, loss term and gradient of one training batch."""
    batch = ours.batch(features, labels)
    outputs = ours.outputs(batch)
    terms, gradients = ours.losses_and_gradients(batch)
    their_outputs = theirs.outputs(features, training=True)
    their_terms = theirs.losses(features, labels)
    return {
        "outputs": {k: relative_difference(outputs[k], v) for k, v in their_outputs.items()},
        "losses": {k: relative_difference(terms[k], v) for k, v in their_terms.items()},
        "gradients": _differences(gradients, theirs.gradients(features, labels)),
    }


def _run_both(
    ours: OurSide, theirs: PublishedModel, problem: Problem, steps: int
) -> dict[str, float]:
    """Runs optimiser steps on both sides, interleaved; median milliseconds of each side."""
    theirs.make_optimizer()
    prepared = [ours.batch(*pair) for pair in problem.batches]
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    with progress(steps, "steps of both", "step", delay=2) as bar:
        for step in range(steps):
            index = step % len(prepared)
            start = time.perf_counter()
            theirs.step(*problem.batches[index])
            middle = time.perf_counter()
            ours.step(prepared[index])
            times["reference"].append(1e3 * (middle - start))
            times["ours"].append(1e3 * (time.perf_counter() - middle))
            bar.update()
    return {name: float(np.median(values)) for name, values in times.items()}


def _run_float64(theirs: PublishedModel, problem: Problem, steps: int) -> Params:
    """The published code's parameters after steps in float64."""
    import torch

    theirs.module.double()
    theirs.make_optimizer()
    with progress(steps, "published, float64", "step", delay=2) as bar:
        for step in range(steps):
            features, labels = problem.batches[step % len(problem.batches)]
            theirs.step(torch.from_numpy(features).double(), labels)
            bar.update()
    return theirs.params()


def comparison_text(report: dict[str, Any]) -> str:
    """What `dedn compare` prints."""
    steps = report["steps"]
    lines = [
        f"Published {report['recipe_model']} model beside ours; {report['problem']}",
        "Largest difference, relative to the largest magnitude in the published tensor:",
    ]
    for name, details in report["details"].items():
        worst = max(details, key=details.get)
        after = f" after {steps} steps" if name == "trajectory" else ""
        lines.append(f"  {name + after:<28}{report[name + '_max_rel']:9.1e}  ({worst})")
    lines.append(f"  {'(root mean square)':<28}{report['trajectory_rms_rel']:9.1e}")
    if "rounding_max_rel" in report:
        lines.append(
            f"Published code in float32 against itself in float64 after {steps} steps: "
            f"{report['rounding_max_rel']:.1e} (root mean square "
            f"{report['rounding_rms_rel']:.1e})"
        )
    ms = report["step_ms"]
    lines.append(
        f"Train step, median of {steps}, interleaved: published "
        f"{ms['reference']:.0f} ms, ours {ms['ours']:.0f} ms, ratio {report['ratio']:.2f}"
    )
    return "\n".join(lines)
