"""One training phase: a task, a number of steps, a rule to select parameters by."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, TrainBatches
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import Executor, JitExecutor, PmapExecutor, ResidentExecutor
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import barrier, is_main, max_over_processes
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.progress import progress
from dedn_jax.training.checkpoint import Checkpoints, Snapshot, load_params, save_params
from dedn_jax.training.evaluation import Metrics, evaluate_task, make_predictor
from dedn_jax.training.interrupt import Stopped, StopRequest, ending_the_run, stopped_run
from dedn_jax.training.logs import MetricsLog, NoLog
from dedn_jax.training.network import Network
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.step import TrainState, TrainStep, init_state, make_train_step
from dedn_jax.training.step_metrics import StepMetrics
from dedn_jax.training.workdir import Workdir

# Streams of the sampler's random numbers, so that two phases of a run do not share batches.
STREAMS = {"validation": 0, "final": 1}
_ASK_EVERY = 8  # steps, or batches of an evaluation


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase trains on and for how long.

    Attributes:
      name: `validation` or `final`; the phase's folder in the work directory.
      task: images and classes.
      groups: attribute groups of the model.
      network: the model's definition and what of it is not trained.
      table: of all feature maps on the devices; None: batches are read and sent.
      layout: of the devices.
      num_steps: steps to do.
      evaluation_label: names the images evaluated on wherever their numbers appear; None: the last
        step's parameters are taken without any evaluation.
    """

    name: str
    task: Task
    groups: AttributeGroups
    network: Network
    table: ResidentFeatures | None
    layout: Layout
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


# Under `jit`: parameters may lie on devices of other processes.
_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


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
            self.params = _copied(params)

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
      stop: read after every step, and within an evaluation after every batch that is read; a run
        that goes on begins such an evaluation again.

    Raises:
      Interrupted: `stop` was set; the state is saved.
      FloatingPointError: the loss is no longer finite.
    """
    folder = workdir.phase(phase.name)
    if (folder / "result.json").exists():
        return _finished(folder, params)

    # The state is donated to the step: it must not share buffers with what the caller still holds.
    params = phase.layout.replicate(params)
    state = phase.layout.replicate(init_state(_copied(params), make_optimizer(config)))
    selection, evaluation_due = Selection(config.selection.metric, params), False
    checkpoints = Checkpoints(folder / "checkpoints", config.train.checkpoints_kept)
    try:
        if saved := checkpoints.restore_latest(Snapshot(state, params, {})):
            state, selection.params = saved.state, saved.selected
            selection.best = saved.position["best"]
            evaluation_due = saved.position.get("evaluation_due", False)
        begin = state, evaluation_due
        state = _train(phase, begin, selection, checkpoints, config, workdir, stop)
    finally:
        checkpoints.close()

    if phase.evaluation_label is None:
        selection.take(phase.num_steps, state.params)
    best = selection.best
    save_params(folder / "selected", selection.params)
    if is_main():
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
    barrier(f"{phase.name} is finished")
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


def _train(
    phase: Phase,
    begin: tuple[TrainState, bool],
    selection: Selection,
    checkpoints: Checkpoints,
    config: ConfigDict,
    workdir: Workdir,
    stop: StopRequest,
) -> TrainState:
    """The training loop, from the state's step to the last.

    `begin` is the state, and whether its parameters are still to be evaluated.
    """
    state, evaluation_due = begin
    layout, task = phase.layout, phase.task
    mixing, table = Mixing.from_config(config), phase.table
    predictor = make_predictor(phase.network.definition, mixing, layout, table)
    classes = layout.replicate(make_class_space(task.class_embeddings, task.seen, phase.groups))
    frozen = layout.replicate(phase.network.frozen)
    interval = _interval(phase, config)
    step = int(state.step)
    executor = _strategy(phase, config, step, (classes, frozen))
    state = executor.place(state)
    log: MetricsLog | NoLog = NoLog()
    if is_main():
        log = MetricsLog(
            workdir.metrics_file, workdir.tensorboard, phase.name, step, evaluation_due
        )
    bar = progress(phase.num_steps, phase.name, "step", initial=step, shown=is_main())

    def logs(step: int) -> bool:
        return step % config.train.log_every == 0 or step == phase.num_steps

    def write(step: int, values: dict[str, float]) -> None:
        log.training(step, values)
        bar.set_postfix_str(f"loss {values['loss']:.3f} {selection}", refresh=False)

    def look(label: str) -> None:
        """Evaluates the parameters of `step`."""
        params = executor.replicated(state.params)
        metrics = evaluate_task(
            predictor,
            params,
            task,
            classes,
            config.evaluate.batch_size,
            frozen=frozen,
            looks_up=table is not None,
            layout=layout,
            workers=config.data.workers,
            asked=lambda done: poll_stop(stop, done, 1),
        )
        log.evaluation(step, label, metrics)
        selection.update(step, metrics, params)
        bar.set_postfix_str(str(selection), refresh=False)

    def where() -> str:
        return f"at step {step} of {phase.num_steps} of phase {phase.name}"

    metrics_of_steps = StepMetrics(phase.name, logs, write)
    try:
        if evaluation_due and phase.evaluation_label:
            with ending_the_run(where()):
                look(phase.evaluation_label)
        began = time.perf_counter()
        while step < phase.num_steps:
            # A call ends where something is due, so that it is done with that step's parameters.
            due = min(
                phase.num_steps,
                *(_next(step, n) for n in (interval, config.train.checkpoint_every)),
            )
            count = min(executor.max_steps, due - step)
            # The steps before still run on the device while batches are read and sent.
            state, terms = executor.run(state, count)
            first, step = step + 1, step + count
            if began:
                jax.block_until_ready(terms)
                if is_main():
                    seconds = time.perf_counter() - began
                    steps = "step" if count == 1 else f"{count} steps"
                    text = f"first {steps} {seconds:.1f} s, compiling included"
                    bar.write(text, file=sys.stderr)
                began = 0.0
            bar.update(count)
            # Read once: a signal that comes later in this turn is answered in the next.
            last, stopping = step == phase.num_steps, poll_stop(stop, step, count)
            saves = step % config.train.checkpoint_every == 0 or last
            label = phase.evaluation_label if step % interval == 0 or last else None
            metrics_of_steps.add(first, count, terms)
            if saves or label or stopping:
                metrics_of_steps.settle()  # no checkpoint holds a NaN
            evaluation_due = label is not None
            if label and not stopping:
                try:
                    look(label)
                    evaluation_due = False
                except Stopped as stopped:
                    stopping = stopped.signal_number
            if saves or stopping:
                # Besides the state's step.
                position = {"best": selection.best, "evaluation_due": evaluation_due}
                checkpoints.save(
                    step, Snapshot(executor.replicated(state), selection.params, position)
                )
            if stopping and (evaluation_due or not last):
                raise stopped_run(stopping, where())
    finally:
        bar.close()
        log.close()
    return executor.replicated(state)


def _interval(phase: Phase, config: ConfigDict) -> int:
    """Steps from one evaluation to the next."""
    if not phase.evaluation_label:
        return phase.num_steps
    interval: int = config.train.evaluate_every
    return interval or max(1, phase.num_steps // config.train.epochs)


def _strategy(
    phase: Phase, config: ConfigDict, done: int, fixed: tuple[ClassSpace, nnx.State]
) -> Executor:
    def make_step(axes: Axes) -> TrainStep:
        return make_train_step(
            phase.network.definition, Objective.from_config(config), make_optimizer(config), axes
        )

    task, layout = phase.task, phase.layout
    labels = task.labels[task.train]
    sampler = Sampler.from_config(task.train, labels, config, STREAMS[phase.name])
    if phase.table is not None:
        # No call goes past what is due next: batches for more steps would be drawn for nothing.
        train = config.train
        most = min(train.steps_per_call, train.checkpoint_every, _interval(phase, config))
        return ResidentExecutor(
            make_step, layout, fixed, ResidentBatches(phase.table, sampler, most)
        )
    reading = Reading(config.data.workers, layout.host_shard)
    batches = TrainBatches(task, sampler, phase.num_steps, reading, done)
    sent = PmapExecutor if config.distribution.strategy == "pmap" else JitExecutor
    return sent(make_step, layout, fixed, batches, sampler.size)


def _next(step: int, interval: int) -> int:
    """The first multiple of `interval` after `step`."""
    return (step // interval + 1) * interval


def poll_stop(stop: StopRequest, done: int, count: int) -> int:
    """The signal that asks to stop, 0 for none; the same in all processes.

    Several processes ask each other every few steps only: each time they wait for the slowest.

    Args:
      stop: of this process.
      done: steps, or batches of an evaluation.
      count: how many of them since it was asked for last.
    """
    if jax.process_count() > 1 and done // _ASK_EVERY == (done - count) // _ASK_EVERY:
        return 0
    return max_over_processes(stop.signal_number)
