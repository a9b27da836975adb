"""Trains the phases of a run: builds what the loop needs, resumes, and keeps the result."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import Task
from dedn_jax.data.pipeline import Reading, TrainBatches
from dedn_jax.data.sampler import Sampler
from dedn_jax.files import read_json, write_json
from dedn_jax.json_values import BOOLEAN, Kind, listed, optional, record, whole
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.executors import Executor
from dedn_jax.parallel.processes import barrier, is_main
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.progress import progress
from dedn_jax.training.calibration import Calibration, calibrate
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.checkpoint import Checkpoints, Snapshot, load_params, save_params
from dedn_jax.training.evaluation import EvaluationLayout, Metrics
from dedn_jax.training.interrupt import StopRequest
from dedn_jax.training.logs import METRICS_FILE, MetricsLog, NoLog
from dedn_jax.training.loop import Loop, Monitor, Selects, poll_stop, selected_text
from dedn_jax.training.network import Network
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.phase import STREAMS, Phase, PhaseResult
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.saved_kinds import CALIBRATION, best
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.scores import Scores
from dedn_jax.training.selection import METRIC_KEYS
from dedn_jax.training.step import ModelState, TrainState, TrainStep, make_train_step
from dedn_jax.training.teacher import Teacher
from dedn_jax.training.timing import StepClock, Timing


class Start(NamedTuple):
    """Where a phase starts, or goes on from.

    Attributes:
      state: the training state.
      step: steps done.
      evaluation_due: whether the parameters of that step are still to be evaluated.
    """

    state: TrainState
    step: int = 0
    evaluation_due: bool = False


class Tested(NamedTuple):
    """Of one model on the test sets.

    Attributes:
      fixed: with the config's mixes and bias.
      calibrated: with those chosen on validation classes, if any were.
    """

    fixed: Metrics
    calibrated: Metrics | None


# Takes a step, its metrics, and the loss to show.
Write = Callable[[int, dict[str, Any], float], None]


L = TypeVar("L", bound=EvaluationLayout)


@dataclasses.dataclass(kw_only=True)
class Trainer(abc.ABC, Generic[L]):
    """Trains the phases of one model (`training.single`) or of many (`sweep.trainer`).

    Attributes:
      config: of the run.
      network: the model's definition and what of it is not trained.
      groups: attribute groups of the model.
      layout: of the devices.
      features: resident feature maps; None: batches are streamed.
      folder: of the run; a phase's is in it.
      check_there: raises InputError where what is written would not come there.
      first_start: of the run, seconds since 1970.
      teacher: that the models learn from, if there is one.
      where: of the phases, for messages: the point of a sweep's grid, or "".
      tensorboard: TensorBoard's directory; None: metrics are written as JSON lines alone.
      seconds_before: that the steps of a sweep's other points took.
      stop: polled while training and evaluating.
      callbacks: told of steps, evaluations and phases.
    """

    config: ConfigDict
    network: Network
    groups: AttributeGroups
    layout: L
    features: ResidentFeatures | None
    folder: Path
    check_there: Callable[[], None]
    first_start: float
    stop: StopRequest
    callbacks: Sequence[Callback] = ()
    teacher: Teacher | None = None
    where: str = ""
    tensorboard: Path | None = None
    seconds_before: float = 0.0

    def train(self, phase: Phase, params: nnx.State) -> PhaseResult:
        """Trains, resumes what an earlier call left, or returns what it finished with.

        Args:
          phase: what to train.
          params: parameters to start from.

        Raises:
          Interrupted: `stop` was set; the state is saved. An evaluation that was under way is
            begun again when the run is resumed.
          FloatingPointError: the loss is no longer finite.
        """
        for callback in self.callbacks:
            callback.on_phase_start(phase.name)
        folder = self.folder / phase.name
        if (folder / "result.json").exists():
            result = self._finished(folder, params)
        else:
            result = self._train(phase, params, folder)
        for callback in self.callbacks:
            callback.on_phase_end(phase.name, result)
        return result

    def _train(self, phase: Phase, params: nnx.State, folder: Path) -> PhaseResult:
        # The step reuses the state's memory: it must not share any with what the caller holds.
        params = self._place(params)
        state, selection = self._init_state(phase, params), self._selection(params)
        step, evaluation_due = 0, False
        keep = self.config.train.checkpoints_kept
        kept = Checkpoints(folder / "checkpoints", keep, self.check_there)
        with contextlib.closing(kept) as checkpoints:
            like, kind = Snapshot(state, params, {}), self._position_kind()
            if saved := checkpoints.restore_latest(like, kind):
                state, selection.params = saved.state, saved.selected
                selection.best = saved.position["best"]
                # Older checkpoints leave the step to the state.
                step = saved.position.get("step") or int(state.step)
                evaluation_due = saved.position.get("evaluation_due", False)
            start = Start(state, step, evaluation_due)
            with self._loop(phase, start, selection, checkpoints) as loop:
                state = loop.run(loop.executor.place(state))
        if phase.label is None:
            selection.select(loop.monitor.steps, state.evaluated)
        save_params(folder / "selected", selection.params)
        result = self._result_json(phase, selection, loop.monitor)
        if is_main():
            write_json(folder / "result.json", result)
        barrier(f"{phase.name} is finished")
        return self._result(result, selection.params)

    def calibrate(self, phase: Phase, params: nnx.State) -> list[Calibration | None]:
        """Calibrates every model on the images of a phase, or reads what an earlier call found.

        Args:
          phase: whose unseen classes took no part in training.
          params: that the phase selected.

        Returns:
          One for every model; None for those that diverged.

        Raises:
          Stopped: `stop` was set.
        """
        file = self.folder / phase.name / "calibration.json"
        if file.exists():
            kind = record({"models": listed(optional(CALIBRATION), self._num_models())})
            saved = read_json(file, kind, "remove it and give the command again")["models"]
            return [s and Calibration.from_json(s) for s in saved]
        fixed, step = Mixing.from_config(self.config), self.config.selection.mix_step
        scores = self._scores(phase.task, params)
        found = [one and calibrate(one[1], fixed, step, names=one[0]) for one in scores]
        if is_main():
            write_json(file, {"models": [one and one.to_json() for one in found]})
        barrier("the calibration is written")
        return found

    def test(
        self, task: Task, params: nnx.State, calibrations: Sequence[Calibration | None] | None
    ) -> list[Tested | None]:
        """The metrics of every model on a task's images, read once; None for those that diverged.

        Args:
          task: images and classes.
          params: of the models.
          calibrations: of the models; None: none are calibrated.

        Raises:
          Stopped: `stop` was set.
        """
        scores = self._scores(task, params)
        return [
            one and Tested(one[0], c.apply(one[1]) if c else None)
            for one, c in zip(scores, calibrations or [None] * len(scores), strict=True)
        ]

    def num_steps(self, task: Task, epochs: Any) -> Any:
        """Steps of so many epochs: `⌊images · epochs / batch⌋`, at least 1."""
        batch_size = self.config.train.batch_size
        return max(1, int(np.floor(len(task.train) * epochs / batch_size + 1e-9)))

    def steps_per_epoch(self, task: Task) -> float:
        """Steps of an epoch, not rounded; schedules are in epochs."""
        return len(task.train) / self.config.train.batch_size

    def _title(self, phase: Phase) -> str:
        """What messages call a phase."""
        return phase.name + self.where

    def _finished(self, folder: Path, like: nnx.State) -> PhaseResult:
        file = folder / "result.json"
        result = read_json(file, self._phase_kind(), f"remove {folder} to train that phase again")
        return self._result(result, load_params(folder / "selected", like))

    def _position_kind(self) -> Kind:
        return record(
            {"best": self._best_kind(best(METRIC_KEYS[self.config.selection.metric]))},
            {"step": whole(0), "evaluation_due": BOOLEAN},
        )

    @contextlib.contextmanager
    def _loop(
        self, phase: Phase, start: Start, selection: Selects, checkpoints: Checkpoints
    ) -> Iterator[Loop]:
        """The loop from `start` on; closes its log and progress bar."""
        schedule = Schedule.from_config(self.config, int(np.max(phase.num_steps)), phase.label)
        title, main, clock = self._title(phase), is_main(), StepClock()
        log: MetricsLog | NoLog = NoLog()
        if main:
            timing = Timing(clock, self.first_start, self.seconds_before)
            done = start.step, start.evaluation_due
            log = MetricsLog(
                self.folder / METRICS_FILE, phase.name, *done, self.tensorboard, timing
            )
        bar = progress(schedule.num_steps, title, "step", initial=start.step, shown=main)

        def write(step: int, metrics: dict[str, Any], loss: float) -> None:
            log.training(step, metrics)
            parts = (f"loss {loss:.3f}", selected_text(selection, phase.label))
            bar.set_postfix_str(", ".join(part for part in parts if part), refresh=False)
            for callback in self.callbacks:
                callback.on_step(step, metrics)

        with contextlib.closing(log), bar:
            yield Loop(
                title=title,
                schedule=schedule,
                executor=self._executor(phase, schedule, start.step),
                evaluate=self._evaluator(phase.task),
                monitor=self._monitor(phase, schedule, start, write),
                selection=selection,
                checkpoints=checkpoints,
                log=log,
                clock=clock,
                bar=bar,
                stop=self.stop,
                callbacks=self.callbacks,
                step=start.step,
                evaluation_due=start.evaluation_due,
            )

    def _sampler(self, phase: str, task: Task) -> Sampler:
        labels = task.labels[task.train]
        return Sampler.from_config(task.train, labels, self.config, STREAMS[phase])

    def _batches(
        self, task: Task, sampler: Sampler, schedule: Schedule, done: int
    ) -> TrainBatches | ResidentBatches:
        if self.features is not None:
            max_steps = schedule.max_steps(self.config.train.steps_per_call)
            return ResidentBatches(self.features, sampler, max_steps)
        reading = Reading(self.config.data.workers, self.layout.host_shard)
        return TrainBatches(task, sampler, schedule.num_steps, reading, done)

    def _constants(self, phase: Phase) -> tuple[ClassSpace, nnx.State, ModelState | None]:
        task = phase.task
        classes = make_class_space(task.class_embeddings, task.seen, self.groups)
        teacher = self.teacher.state(phase.name, task) if self.teacher else None
        return classes, self.network.frozen, teacher

    def _make_step(self, task: Task, batch_size: int, axes: Axes = ALONE) -> TrainStep:
        steps_per_epoch = self.steps_per_epoch(task)
        objective = Objective.from_config(self.config, steps_per_epoch)
        optimizer = make_optimizer(self.config, steps_per_epoch)
        teacher = self.teacher.network.definition if self.teacher else None
        return make_train_step(
            self.network.definition, objective, optimizer, axes, teacher, batch_size
        )

    def _schedule_step(self, phase: Phase) -> np.ndarray:
        """Where a phase takes up the learning rate's schedule, in steps; `[models]` in a sweep."""
        steps = phase.epochs_before * self.steps_per_epoch(phase.task)
        return np.rint(steps).astype(np.int32)

    def _poll(self, done: int) -> int:
        return poll_stop(self.stop, done, 1)

    @abc.abstractmethod
    def _num_models(self) -> int:
        """How many are trained."""

    @abc.abstractmethod
    def _phase_kind(self) -> Kind:
        """The shape of `_result_json`, read again."""

    @abc.abstractmethod
    def _best_kind(self, of_one: Kind) -> Kind:
        """The shape of the selection's `best`, read again."""

    @abc.abstractmethod
    def _place(self, params: nnx.State) -> nnx.State:
        """Parameters on the devices."""

    @abc.abstractmethod
    def _init_state(self, phase: Phase, params: nnx.State) -> TrainState:
        """The state before the first step, on the devices; shares no memory with `params`."""

    @abc.abstractmethod
    def _selection(self, params: nnx.State) -> Selects:
        """With `params` selected before the first evaluation."""

    @abc.abstractmethod
    def _executor(self, phase: Phase, schedule: Schedule, done: int) -> Executor:
        """Runs the phase's steps after the first `done`."""

    @abc.abstractmethod
    def _evaluator(self, task: Task) -> Callable[[Any, np.ndarray], Any]:
        """`(params, active) -> metrics`; raises Stopped."""

    @abc.abstractmethod
    def _scores(self, task: Task, params: nnx.State) -> list[tuple[Metrics, Scores] | None]:
        """Metrics and scores of every model; None for those that diverged; raises Stopped."""

    @abc.abstractmethod
    def _monitor(self, phase: Phase, schedule: Schedule, start: Start, write: Write) -> Monitor:
        """Reads the metrics of steps and hands those that are logged to `write`."""

    @abc.abstractmethod
    def _result_json(self, phase: Phase, selection: Any, monitor: Any) -> dict[str, Any]:
        """What `result.json` of the phase holds."""

    @abc.abstractmethod
    def _result(self, saved: dict[str, Any], params: nnx.State) -> PhaseResult:
        """From the content of `result.json`, and the selected parameters."""
