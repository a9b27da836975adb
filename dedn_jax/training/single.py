"""Trains the phases of one model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from dedn_jax.data.dataset import Task
from dedn_jax.json_values import Kind
from dedn_jax.parallel.executors import Executor, JitExecutor, PmapExecutor, ResidentExecutor
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.training.evaluation import Evaluator, Metrics
from dedn_jax.training.loop import Monitor, Selects
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.phase import Phase, PhaseResult
from dedn_jax.training.saved_kinds import PHASE
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.scores import Scores
from dedn_jax.training.selection import Selection, copied
from dedn_jax.training.step import TrainState, init_state
from dedn_jax.training.step_metrics import StepMetrics
from dedn_jax.training.trainer import Start, Trainer, Write


@dataclasses.dataclass(kw_only=True)
class SingleTrainer(Trainer[Layout]):
    """Trains one model: by `jit` over a mesh or `pmap`, on resident or streamed features."""

    def _place(self, params: nnx.State) -> nnx.State:
        return self.layout.replicate(params)

    def _init_state(self, phase: Phase, params: nnx.State) -> TrainState:
        optimizer = make_optimizer(self.config, self.steps_per_epoch(phase.task))
        state = init_state(copied(params), optimizer, int(self._schedule_step(phase)))
        return self.layout.replicate(state)

    def _selection(self, params: nnx.State) -> Selects:
        return Selection(self.config.selection.metric, params)

    def _executor(self, phase: Phase, schedule: Schedule, done: int) -> Executor:
        sampler = self._sampler(phase.name, phase.task)
        batches = self._batches(phase.task, sampler, schedule, done)
        make_step = functools.partial(self._make_step, phase.task, sampler.size)
        arguments = make_step, self.layout, self._constants(phase)
        if isinstance(batches, ResidentBatches):
            return ResidentExecutor(*arguments, batches)
        streamed = PmapExecutor if self.config.distribution.strategy == "pmap" else JitExecutor
        return streamed(*arguments, batches, sampler.size)

    def _evaluator(self, task: Task) -> Callable[[Any, np.ndarray], Any]:
        evaluator = self._task_evaluator(task)
        return lambda params, _: evaluator(params, self._poll)

    def _scores(self, task: Task, params: nnx.State) -> list[tuple[Metrics, Scores] | None]:
        return [self._task_evaluator(task).with_scores(self._place(params), self._poll)]

    def _task_evaluator(self, task: Task) -> Evaluator[Layout]:
        return Evaluator(self.network, task, self.groups, self.config, self.layout, self.features)

    def _monitor(self, phase: Phase, schedule: Schedule, start: Start, write: Write) -> Monitor:
        return StepMetrics(
            phase.name, schedule, lambda step, metrics: write(step, metrics, metrics["loss"])
        )

    def _num_models(self) -> int:
        return 1

    def _phase_kind(self) -> Kind:
        return PHASE

    def _best_kind(self, of_one: Kind) -> Kind:
        return of_one

    def _result_json(self, phase: Phase, selection: Any, monitor: Any) -> dict[str, Any]:
        best = selection.best
        return {
            "steps": phase.num_steps,
            "selected_step": best["step"],
            "evaluated_on": phase.label,
            "selected_metrics": best["metrics"],
            "best_t1": best["t1"],
        }

    def _result(self, saved: dict[str, Any], params: nnx.State) -> PhaseResult:
        return PhaseResult(
            saved["steps"],
            saved["selected_step"],
            saved["selected_metrics"],
            saved["best_t1"],
            params,
        )
