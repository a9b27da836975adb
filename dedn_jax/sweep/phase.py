"""One phase of many models: as `training.loop`, each with its own selection and last step."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Batches, TrainBatches
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.progress import progress
from dedn_jax.sweep.divergence import StepsTaken
from dedn_jax.sweep.evaluate import Evaluation
from dedn_jax.sweep.log import SweepLog
from dedn_jax.sweep.place import Place
from dedn_jax.sweep.step import ModelsStep, choose, start
from dedn_jax.training.checkpoint import Checkpoints, Snapshot, load_params, save_params
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.interrupt import Stopped, StopRequest, ending_the_run, stopped_run
from dedn_jax.training.loop import STREAMS, Selection
from dedn_jax.training.network import Network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.step import NONE_FROZEN, TrainState

_choose = jax.jit(choose)


@dataclasses.dataclass(frozen=True)
class ModelsPhase:
    """What a phase trains on and for how long.

    Attributes:
      name: `validation` or `final`; the phase's folder in that of the point.
      title: what the progress bar says before that.
      task: images and classes.
      groups: attribute groups of the models.
      network: the models' definition.
      table: as in `dedn_jax.training.loop.Phase`.
      place: of the models.
      seeds: of the models; the first is that of the batches.
      num_steps: `[models]` steps to do; equal where there is an evaluation label, and 0 for models
        that have no part in it.
      evaluation_label: as in `dedn_jax.training.loop.Phase`.
    """

    name: str
    title: str
    task: Task
    groups: AttributeGroups
    network: Network
    table: ResidentFeatures | None
    place: Place
    seeds: list[int]
    num_steps: np.ndarray
    evaluation_label: str | None


class ModelsResult(NamedTuple):
    """How a phase ended; lists over the models.

    Attributes:
      steps: steps done.
      diverged_at: the step at which a model diverged, else None; see `dedn_jax.sweep.divergence`.
      selected_steps: the steps whose parameters were selected; the last ones without a rule.
      selected_metrics: their evaluations, None where nothing was evaluated.
      best_t1: T1 at its own best step and that step, None where nothing was evaluated.
      params: the selected parameters, stacked; finite ones also where a model diverged.
    """

    steps: list[int]
    diverged_at: list[int | None]
    selected_steps: list[int]
    selected_metrics: list[Metrics | None]
    best_t1: list[dict[str, float] | None]
    params: nnx.State


class Selections:
    """The best evaluation so far of every model, by the rule of `dedn_jax.training.loop.Selection`.

    Args:
      metric: `harmonic_mean` or `t1`.
      params: stacked; what stands selected before the first evaluation.
      models: how many.
    """

    def __init__(self, metric: str, params: nnx.State, models: int) -> None:
        self._each = [Selection(metric, NONE_FROZEN) for _ in range(models)]
        self.params = params

    @property
    def best(self) -> list[dict]:
        """`Selection.best` of every model."""
        return [s.best for s in self._each]

    @best.setter
    def best(self, best: list[dict]) -> None:
        for selection, one in zip(self._each, best, strict=True):
            selection.best = one

    def update(self, step: int, metrics: list[Metrics | None], params: nnx.State) -> None:
        """Takes the parameters of the models that are better than all before."""
        for selection, one in zip(self._each, metrics, strict=True):
            if one is not None:
                selection.update(step, one, NONE_FROZEN)
        better = np.asarray([b["step"] == step for b in self.best])
        self.params = _choose(better, params, self.params)

    def take(self, steps: np.ndarray, params: nnx.State) -> None:
        """Selects `params` without a rule."""
        for selection, step in zip(self._each, steps, strict=True):
            selection.best["step"] = int(step)
        self.params = params


def run_models(
    phase: ModelsPhase, params: nnx.State, config: ConfigDict, folder: Path, stop: StopRequest
) -> ModelsResult:
    """Trains, or goes on where an earlier call was interrupted, or returns what it finished with.

    Args:
      phase: what to train.
      params: stacked parameters to start from.
      config: of the point.
      folder: of the point.
      stop: as in `dedn_jax.training.loop.run_phase`.

    Raises:
      Interrupted: `stop` was set; the state is saved.
    """
    own = folder / phase.name
    params = phase.place.put(params)
    if (own / "result.json").exists():
        return _finished(own, params)
    state = start(params, config, phase.place)
    selections = Selections(config.selection.metric, params, len(phase.seeds))
    begin = state, 0, False
    checkpoints = Checkpoints(own / "checkpoints", config.train.checkpoints_kept)
    try:
        if saved := checkpoints.restore_latest(Snapshot(state, params, {})):
            selections.params, selections.best = saved.selected, saved.position["best"]
            evaluation_due = saved.position.get("evaluation_due", False)
            begin = saved.state, saved.position["step"], evaluation_due
        state, taken = _train(phase, begin, selections, checkpoints, config, folder, stop)
    finally:
        checkpoints.close()
    if phase.evaluation_label is None:
        selections.take(taken.each, state.params)
    save_params(own / "selected", selections.params)
    result = {
        "steps": taken.each.tolist(),
        "diverged_at": taken.diverged_at,
        "evaluated_on": phase.evaluation_label,
        "models": selections.best,
    }
    write_json(own / "result.json", result)
    return _result(result, selections.params)


def _finished(own: Path, like: nnx.State) -> ModelsResult:
    result = read_json(own / "result.json")
    try:
        return _result(result, load_params(own / "selected", like))
    except KeyError as error:
        raise InputError(
            f"{own / 'result.json'}: has no {error}; remove {own} to train that phase again"
        ) from error


def _result(result: dict, params: nnx.State) -> ModelsResult:
    models = result["models"]
    steps, metrics, best_t1 = ([m[key] for m in models] for key in ("step", "metrics", "t1"))
    return ModelsResult(result["steps"], result["diverged_at"], steps, metrics, best_t1, params)


def _train(
    phase: ModelsPhase,
    begin: tuple[TrainState, int, bool],
    selections: Selections,
    checkpoints: Checkpoints,
    config: ConfigDict,
    folder: Path,
    stop: StopRequest,
) -> tuple[TrainState, StepsTaken]:
    """The training loop, to the last step that any model can take.

    `begin` is the state, the steps done, and whether its parameters are still to be evaluated.
    """
    state, step, evaluation_due = begin
    task, ends = phase.task, phase.num_steps
    evaluation = Evaluation(phase.network, task, phase.groups, config, phase.table, phase.place)
    classes = make_class_space(task.class_embeddings, task.seen, phase.groups)
    total = int(ends.max())
    interval = total
    if phase.evaluation_label:
        interval = config.train.evaluate_every or max(1, total // config.train.epochs)
    models = ModelsStep(
        phase.network.definition,
        config,
        phase.place,
        (classes, phase.network.frozen),
        ends,
        _source(phase, config, (step, total, interval)),
    )
    taken = StepsTaken(state.step, step, ends)
    log = SweepLog(folder / "metrics.jsonl", phase.name, step, evaluation_due)
    bar = progress(total, f"{phase.title}{phase.name}", "step", initial=step)

    def look(label: str, active: np.ndarray) -> None:
        """Evaluates the parameters of `step`."""
        metrics = evaluation(state.params, active, lambda _: stop.signal_number)
        log.evaluation(step, label, metrics)
        selections.update(step, metrics, state.params)

    def where() -> str:
        return f"at step {step} of {total} of phase {phase.name} {phase.title.strip()}"

    try:
        if evaluation_due and phase.evaluation_label:
            with ending_the_run(where()):
                look(phase.evaluation_label, step <= taken.each)
        began = time.perf_counter()
        while not taken.over:
            due = min(
                total, *((step // n + 1) * n for n in (interval, config.train.checkpoint_every))
            )
            count = min(models.max_steps, due - step)
            state, terms = models.run(state, step, count)
            first, step = step + 1, step + count
            if began:
                jax.block_until_ready(terms)
                seconds = time.perf_counter() - began
                steps = "step" if count == 1 else f"{count} steps"
                text = f"first {steps} {seconds:.1f} s, compiling included"
                bar.write(text, file=sys.stderr)
                began = 0.0
            bar.update(count)
            last, stopping = step == total, stop.signal_number
            saves = step % config.train.checkpoint_every == 0 or last or stopping
            label = phase.evaluation_label if step % interval == 0 or last else None
            logged = [s for s in range(first, step + 1) if _logs(s, total, config)]
            if not (saves or label or logged):
                continue  # without waiting for the device
            if diverged := taken.look(state.step, step):
                bar.write(_diverged_text(phase, diverged, taken), file=sys.stderr)
            for s in logged:
                # No line of steps that no model took: an interrupted phase may look earlier, and
                # see earlier that all models have diverged.
                if (active := s <= taken.each).any():
                    values = {k: np.asarray(v)[s - first].astype(float) for k, v in terms.items()}
                    log.training(s, {k: _listed(v, active) for k, v in values.items()})
                    loss = values["loss"][active].mean()
                    bar.set_postfix_str(f"mean loss {loss:.3f}", refresh=False)
            active = step <= taken.each
            evaluation_due = label is not None and bool(active.any())
            if label and evaluation_due and not stopping:
                try:
                    look(label, active)
                    evaluation_due = False
                except Stopped as stopped:
                    stopping = stopped.signal_number
            if saves or stopping or taken.over:
                # A model that diverged has a smaller step in its state.
                best = selections.best
                position = {"step": step, "best": best, "evaluation_due": evaluation_due}
                checkpoints.save(step, Snapshot(state, selections.params, position))
            if stopping and (evaluation_due or not taken.over):
                raise stopped_run(stopping, where())
    finally:
        bar.close()
        log.close()
    return state, taken


def _source(
    phase: ModelsPhase, config: ConfigDict, steps: tuple[int, int, int]
) -> Batches | ResidentBatches:
    """Of batches; `steps`: those done, all, and those between two evaluations."""
    done, total, interval = steps
    task, table = phase.task, phase.table
    labels = task.labels[task.train]
    sampler = Sampler.from_config(task.train, labels, config, STREAMS[phase.name])
    if table is not None:
        most = min(config.train.steps_per_call, config.train.checkpoint_every, interval)
        return ResidentBatches(table, sampler, most)
    return TrainBatches(task, sampler, total, done=done)


def _logs(step: int, total: int, config: ConfigDict) -> bool:
    return step % config.train.log_every == 0 or step == total


def _listed(values: np.ndarray, active: np.ndarray) -> list[float | None]:
    return [float(v) if a else None for v, a in zip(values, active, strict=True)]


def _diverged_text(phase: ModelsPhase, diverged: dict[int, int], taken: StepsTaken) -> str:
    models = ", ".join(f"seed {phase.seeds[m]} at step {at}" for m, at in diverged.items())
    return (
        f"{phase.title}{phase.name}: diverged: {models} (loss, gradient or parameters not finite); "
        f"{taken.diverged_at.count(None)} of {len(phase.seeds)} models go on"
    )
