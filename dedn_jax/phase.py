"""One training phase: a task, a number of steps, a rule to select parameters by."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.checkpoint import Checkpoints, Snapshot, load_params, save_params
from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, TrainBatches
from dedn_jax.data.sampler import Sampler
from dedn_jax.distributed import replicate, shard_batch
from dedn_jax.errors import InputError
from dedn_jax.evaluate import Metrics, evaluate_task, make_predictor
from dedn_jax.files import read_json, write_json
from dedn_jax.groups import AttributeGroups
from dedn_jax.interrupt import Interrupted, StopRequest
from dedn_jax.logs import MetricsLog
from dedn_jax.network import Network
from dedn_jax.optimizer import make_optimizer
from dedn_jax.progress import progress
from dedn_jax.step import (
    Batch,
    Mixing,
    Objective,
    TrainState,
    init_state,
    make_class_space,
    make_train_step,
)
from dedn_jax.workdir import Workdir

# Streams of the sampler's random numbers, so that two phases of a run do not share batches.
_STREAMS = {"validation": 0, "final": 1}


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase trains on and for how long.

    Attributes:
      name: `validation` or `final`; the phase's folder in the work directory.
      task: images and classes.
      groups: attribute groups of the model.
      network: the model's definition and what of it is not trained.
      num_steps: steps to do.
      evaluation_label: names the images evaluated on wherever their numbers appear; None: the last
        step's parameters are taken without any evaluation.
    """

    name: str
    task: Task
    groups: AttributeGroups
    network: Network
    num_steps: int
    evaluation_label: str | None


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


class Selection:
    """The best evaluation so far, by the fused score.

    Args:
      metric: `harmonic_mean` or `t1`.
      params: what stands selected before the first evaluation.
    """

    def __init__(self, metric: str, params: nnx.State) -> None:
        self._key = {"harmonic_mean": "H", "t1": "T1"}[metric]
        self.params = params
        self.best: dict[str, Any] = {"step": 0, "metrics": None, "t1": None}

    def update(self, step: int, metrics: Metrics, params: nnx.State) -> None:
        """Takes `params` (copied) if they are better than all before."""
        best, fused = self.best, metrics["fused"]
        if best["t1"] is None or fused["T1"] > best["t1"]["T1"]:
            best["t1"] = {"T1": fused["T1"], "step": step}
        # While the best is 0 nothing was learned yet, and a later look is the better guess.
        so_far = best["metrics"]["fused"][self._key] if best["metrics"] else 0.0
        if fused[self._key] > so_far or so_far == 0:
            best["step"], best["metrics"] = step, metrics
            self.params = jax.tree.map(jnp.copy, params)

    def take(self, step: int, params: nnx.State) -> None:
        """Selects `params` without a rule."""
        self.best["step"], self.params = step, params

    def __str__(self) -> str:
        metrics, step = self.best["metrics"], self.best["step"]
        return f"best {self._key} {metrics['fused'][self._key]:.1f} at {step}" if metrics else ""


def run_phase(
    phase: Phase, params: nnx.State, config: ConfigDict, workdir: Workdir, stop: StopRequest
) -> PhaseResult:
    """Trains, or goes on where an earlier call was interrupted, or returns what it finished with.

    Args:
      phase: what to train.
      params: parameters to start from.
      config: of the run.
      workdir: where everything is written.
      stop: read after every step.

    Raises:
      Interrupted: `stop` was set; the state is saved.
      FloatingPointError: the loss is no longer finite.
    """
    folder = workdir.phase(phase.name)
    if (folder / "result.json").exists():
        return _finished(folder, params)

    # The state is donated to the step: it must not share buffers with what the caller still holds.
    params = replicate(params)
    state = replicate(init_state(jax.tree.map(jnp.copy, params), make_optimizer(config)))
    selection = Selection(config.selection.metric, params)
    batches = _batches(phase, config)
    checkpoints = Checkpoints(folder / "checkpoints", config.train.checkpoints_kept)
    try:
        if saved := checkpoints.restore_latest(Snapshot(state, params, {})):
            state, selection.params = saved.state, saved.selected
            selection.best = saved.position["best"]
            batches.set_state(saved.position["data"])
        state = _train(phase, state, selection, batches, checkpoints, config, workdir, stop)
    finally:
        checkpoints.close()

    if phase.evaluation_label is None:
        selection.take(phase.num_steps, state.params)
    best = selection.best
    save_params(folder / "selected", selection.params)
    write_json(
        folder / "result.json",
        {
            "steps": phase.num_steps,
            "selected_step": best["step"],
            "evaluated_on": phase.evaluation_label,
            "selected_metrics": best["metrics"],
            "best_t1": best["t1"],
        },
    )
    return PhaseResult(phase.num_steps, best["step"], best["metrics"], best["t1"], selection.params)


def _finished(folder: Path, like: nnx.State) -> PhaseResult:
    result = read_json(folder / "result.json")
    try:
        steps, selected = result["steps"], result["selected_step"]
        metrics, best_t1 = result["selected_metrics"], result["best_t1"]
    except KeyError as error:
        raise InputError(
            f"{folder / 'result.json'}: has no {error}; remove {folder} to train that phase again"
        ) from error
    return PhaseResult(steps, selected, metrics, best_t1, load_params(folder / "selected", like))


def _batches(phase: Phase, config: ConfigDict) -> TrainBatches:
    task = phase.task
    labels = task.labels[task.train]
    sampler = Sampler.from_config(task.train, labels, config, _STREAMS[phase.name])
    return TrainBatches(task, sampler, phase.num_steps, Reading(config.data.workers))


def _train(
    phase: Phase,
    state: TrainState,
    selection: Selection,
    batches: TrainBatches,
    checkpoints: Checkpoints,
    config: ConfigDict,
    workdir: Workdir,
    stop: StopRequest,
) -> TrainState:
    """The training loop, from the state's step to the last."""
    optimizer = make_optimizer(config)
    train_step = jax.jit(
        make_train_step(phase.network.definition, Objective.from_config(config), optimizer),
        donate_argnums=0,
    )
    predictor = make_predictor(phase.network.definition, Mixing.from_config(config))
    frozen = replicate(phase.network.frozen)
    classes = replicate(
        make_class_space(phase.task.class_embeddings, phase.task.seen, phase.groups)
    )
    interval = config.train.evaluate_every or max(1, phase.num_steps // config.train.epochs)
    start = int(state.step)
    log = MetricsLog(workdir.metrics_file, workdir.tensorboard, phase.name, start)
    bar = progress(phase.num_steps, phase.name, "step", initial=start)
    try:
        for step in range(start + 1, phase.num_steps + 1):
            # The step before is still running on the device while this batch is fetched and sent.
            batch = Batch(*shard_batch(next(batches)))
            state, terms = train_step(state, batch, classes, frozen)
            bar.update()
            # Read once: a signal that comes later in this turn is answered in the next.
            last, stopping = step == phase.num_steps, bool(stop.signal_number)
            saves = step % config.train.checkpoint_every == 0 or last or stopping
            logs = step % config.train.log_every == 0 or last
            if logs or saves:
                values = {k: float(v) for k, v in terms.items()}
                _check_finite(phase.name, step, values)  # so that no checkpoint holds a NaN
            if logs:
                log.training(step, values)
                bar.set_postfix_str(f"loss {values['loss']:.3f} {selection}", refresh=False)
            if phase.evaluation_label and (step % interval == 0 or last):
                metrics = evaluate_task(
                    predictor,
                    state.params,
                    phase.task,
                    classes,
                    config.evaluate.batch_size,
                    frozen=frozen,
                    reading=Reading(config.data.workers),
                )
                log.evaluation(step, phase.evaluation_label, metrics)
                selection.update(step, metrics, state.params)
            if saves:
                position = {"data": batches.get_state(), "best": selection.best}
                checkpoints.save(step, Snapshot(state, selection.params, position))
            if stopping and not last:
                raise Interrupted(
                    stop.signal_number,
                    f"stopped at step {step} of {phase.num_steps} of phase {phase.name}; "
                    "give the same command to resume",
                )
    finally:
        bar.close()
        log.close()
    return state


def _check_finite(name: str, step: int, terms: dict[str, float]) -> None:
    """Raises FloatingPointError where loss, gradient or parameters are no numbers to go on from."""
    bad = [k for k in ("loss", "gradient_norm", "parameter_norm") if not math.isfinite(terms[k])]
    if bad:
        bad += [k for k, v in terms.items() if k not in bad and not math.isfinite(v)]
        raise FloatingPointError(
            f"phase {name}, step {step}: {', '.join(bad)} not finite; the checkpoints are from "
            "before that. Check the features, or lower config.optimizer.learning_rate in a new "
            "--workdir"
        )
