"""One training phase: a task, a number of steps, a rule to select parameters by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.checkpoint import Checkpoints, Snapshot, load_params, save_params
from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import train_batches
from dedn_jax.data.sampler import Sampler
from dedn_jax.evaluate import Metrics, evaluate_task, make_predictor
from dedn_jax.files import read_json, write_json
from dedn_jax.groups import AttributeGroups
from dedn_jax.interrupt import Interrupted, StopRequest
from dedn_jax.logs import MetricsLog
from dedn_jax.optimizer import make_optimizer
from dedn_jax.progress import progress
from dedn_jax.step import (
    Batch,
    Mixing,
    Objective,
    init_state,
    make_class_space,
    make_train_step,
)
from dedn_jax.workdir import Workdir

# Streams of the sampler's random numbers, so that two phases of a run do not share batches.
_STREAMS = {"validation": 0, "final": 1}


class PhaseResult(NamedTuple):
    """How a phase ended.

    Attributes:
      steps: steps done.
      selected_step: the step whose parameters were selected; the last one without a rule.
      selected_metrics: their evaluation, None where nothing was evaluated.
      best_t1: T1 at its own best step and that step, None where nothing was evaluated.
      params: the selected parameters.
    """

    steps: int
    selected_step: int
    selected_metrics: Metrics | None
    best_t1: dict[str, float] | None
    params: nnx.State


def run_phase(
    name: str,
    task: Task,
    groups: AttributeGroups,
    model: nnx.GraphDef,
    params: nnx.State,
    num_steps: int,
    config: ConfigDict,
    workdir: Workdir,
    stop: StopRequest,
    evaluation_label: str | None,
) -> PhaseResult:
    """Trains, or goes on where an earlier call was interrupted, or returns what it finished with.

    Args:
      name: `validation` or `final`; the phase's folder in the work directory.
      task: what to train and evaluate on.
      groups: attribute groups of the model.
      model: the model's definition.
      params: parameters to start from.
      num_steps: steps to do.
      config: of the run.
      workdir: where everything is written.
      stop: read after every step.
      evaluation_label: names the images evaluated on wherever their numbers appear; None: the last
        step's parameters are taken without any evaluation.

    Raises:
      Interrupted: `stop` was set; the state is saved.
    """
    folder = workdir.phase(name)
    if (folder / "result.json").exists():
        return _finished(folder, params)

    objective = Objective.from_config(config)
    optimizer = make_optimizer(config)
    classes = make_class_space(task.class_embeddings, task.seen, groups)
    train_step = jax.jit(make_train_step(model, objective, optimizer), donate_argnums=0)
    predictor = make_predictor(model, Mixing.from_config(config))
    sampler = Sampler(
        task.train,
        task.labels[task.train],
        config.train.batch_size,
        config.train.balanced,
        config.seed,
        _STREAMS[name],
    )
    batches = train_batches(task, sampler, num_steps)
    interval = config.train.evaluate_every or max(1, num_steps // config.train.epochs)

    checkpoints = Checkpoints(folder / "checkpoints", config.train.checkpoints_kept)
    # The state is donated to the step: it must not share buffers with what the caller still holds.
    state = init_state(jax.tree.map(jnp.copy, params), optimizer)
    best: dict[str, Any] = {"step": 0, "metrics": None, "t1": None}
    selected = params
    start = 0
    if saved := checkpoints.restore_latest(Snapshot(state, selected, {})):
        state, selected, best = saved.state, saved.selected, saved.position["best"]
        batches.set_state(saved.position["data"])
        start = int(state.step)
    log = MetricsLog(workdir.metrics_file, workdir.tensorboard, name, start)
    bar = progress(num_steps, name, "step", initial=start)
    try:
        for step in range(start + 1, num_steps + 1):
            features, labels = next(batches)
            batch = Batch(jnp.asarray(features), jnp.asarray(labels))
            state, terms = train_step(state, batch, classes)
            bar.update()
            last = step == num_steps
            if step % config.train.log_every == 0 or last:
                values = {k: float(v) for k, v in terms.items()}
                log.training(step, values)
                bar.set_postfix_str(_postfix(values, best), refresh=False)
                _check_finite(name, step, values)
            if evaluation_label and (step % interval == 0 or last):
                metrics = evaluate_task(
                    predictor, state.params, task, classes, config.evaluate.batch_size
                )
                log.evaluation(step, evaluation_label, metrics)
                if _update_best(best, step, metrics, config.selection.metric):
                    selected = jax.tree.map(jnp.copy, state.params)
                bar.set_postfix_str(_postfix(None, best), refresh=False)
            if step % config.train.checkpoint_every == 0 or last or stop.signal_number:
                position = {"data": batches.get_state(), "best": best}
                checkpoints.save(step, Snapshot(state, selected, position))
            if stop.signal_number and not last:
                raise Interrupted(
                    stop.signal_number,
                    f"stopped at step {step} of {num_steps} of phase {name}; "
                    "give the same command to resume",
                )
    finally:
        bar.close()
        log.close()
        checkpoints.close()

    if evaluation_label is None:
        best, selected = {"step": num_steps, "metrics": None, "t1": None}, state.params
    save_params(folder / "selected", selected)
    write_json(
        folder / "result.json",
        {
            "steps": num_steps,
            "selected_step": best["step"],
            "evaluated_on": evaluation_label,
            "selected_metrics": best["metrics"],
            "best_t1": best["t1"],
        },
    )
    return PhaseResult(num_steps, best["step"], best["metrics"], best["t1"], selected)


def _finished(folder: Path, like: nnx.State) -> PhaseResult:
    result = read_json(folder / "result.json")
    return PhaseResult(
        result["steps"],
        result["selected_step"],
        result["selected_metrics"],
        result["best_t1"],
        load_params(folder / "selected", like),
    )


def _update_best(best: dict[str, Any], step: int, metrics: Metrics, metric: str) -> bool:
    """Keeps the best so far of the fused score in `best`; True when `metrics` is the new best."""
    key = {"harmonic_mean": "H", "t1": "T1"}[metric]
    fused = metrics["fused"]
    if best["t1"] is None or fused["T1"] > best["t1"]["T1"]:
        best["t1"] = {"T1": fused["T1"], "step": step}
    if best["metrics"] is not None and fused[key] <= best["metrics"]["fused"][key]:
        return False
    best["step"], best["metrics"] = step, metrics
    return True


def _postfix(terms: dict[str, float] | None, best: dict[str, Any]) -> str:
    parts = [f"loss {terms['loss']:.3f}"] if terms else []
    if best["metrics"]:
        parts.append(f"best H {best['metrics']['fused']['H']:.1f} at {best['step']}")
    return ", ".join(parts)


def _check_finite(name: str, step: int, terms: dict[str, float]) -> None:
    if not math.isfinite(terms["loss"]):
        bad = [k for k, v in terms.items() if not math.isfinite(v)]
        raise FloatingPointError(
            f"phase {name}, step {step}: {', '.join(bad)} not finite; checkpoints before this step "
            "are intact. Lower config.optimizer.learning_rate, or check the features"
        )
