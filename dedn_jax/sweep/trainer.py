"""Trains the phases of many models in one program, each with its own selection and last step."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from dedn_jax.data.dataset import Task
from dedn_jax.json_values import Kind, listed, optional, record, whole
from dedn_jax.parallel.mesh import on_host
from dedn_jax.sweep.evaluation import ModelsEvaluator
from dedn_jax.sweep.executor import ModelsExecutor, choose, init_states
from dedn_jax.sweep.layout import ModelLayout
from dedn_jax.sweep.step_metrics import ModelsMetrics
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.phase import Phase, PhaseResult
from dedn_jax.training.saved_kinds import BEST_T1, METRICS_OF_EXPERTS
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.scores import Scores
from dedn_jax.training.selection import Selection
from dedn_jax.training.step import TrainState
from dedn_jax.training.trainer import Start, Trainer, Write

_choose = jax.jit(choose)
# In place of one model's parameters: those of all models are selected together, stacked.
_ELSEWHERE: nnx.State = nnx.State({})


@dataclasses.dataclass(frozen=True)
class ModelsResult(PhaseResult):
    """How a phase ended: lists over the models, and stacked parameters.

    Attributes:
      diverged_at: the step at which a model diverged, else None; see `sweep.step_metrics`. Its
        parameters are finite all the same.
    """

    diverged_at: list[int | None]


class Selections:
    """A `Selection` for every model.

    Args:
      metric: `harmonic_mean`, `t1` or `ausuc`.
      params: stacked; selected before the first evaluation.
      models: how many.
    """

    def __init__(self, metric: str, params: nnx.State, models: int) -> None:
        self._each = [Selection(metric, _ELSEWHERE) for _ in range(models)]
        self.params = params

    @property
    def best(self) -> list[dict[str, Any]]:
        """`Selection.best` of every model."""
        return [s.best for s in self._each]

    @best.setter
    def best(self, best: list[dict[str, Any]]) -> None:
        for selection, one in zip(self._each, best, strict=True):
            selection.best = one

    def update(self, step: int, metrics: list[Metrics | None], params: nnx.State) -> None:
        """Selects the parameters of the models that are better than all before."""
        for selection, one in zip(self._each, metrics, strict=True):
            if one is not None:
                selection.update(step, one, _ELSEWHERE)
        better = np.asarray([b["step"] == step for b in self.best])
        self.params = _choose(better, params, self.params)

    def select(self, steps: np.ndarray, params: nnx.State) -> None:
        """Selects `params` without an evaluation."""
        for selection, step in zip(self._each, steps, strict=True):
            selection.best["step"] = int(step)
        self.params = params

    def __str__(self) -> str:
        return ""


@dataclasses.dataclass(kw_only=True)
class ModelsTrainer(Trainer[ModelLayout]):
    """Trains stacked models.

    Attributes:
      seeds: of the models; the first is that of the batches.
      diverged: `[models]` bool; those take no part in later phases.
    """

    seeds: Sequence[int]
    diverged: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.diverged = np.zeros(len(self.seeds), bool)

    def train(self, phase: Phase, params: nnx.State) -> ModelsResult:
        """As for one model, except that a diverging model stops while the others continue."""
        ends = np.where(self.diverged, 0, phase.num_steps)
        result = super().train(dataclasses.replace(phase, num_steps=ends), params)
        assert isinstance(result, ModelsResult)
        self.diverged |= np.asarray([at is not None for at in result.diverged_at])
        return result

    def num_steps(self, task: Task, epochs: Any) -> np.ndarray:
        each = np.broadcast_to(np.asarray(epochs, float), len(self.seeds))
        return np.asarray([Trainer.num_steps(self, task, e) for e in each])

    def _place(self, params: nnx.State) -> nnx.State:
        return self.layout.place(params)

    def _init_state(self, phase: Phase, params: nnx.State) -> TrainState:
        optimizer = make_optimizer(self.config, self.steps_per_epoch(phase.task))
        return init_states(params, optimizer, self.layout, self._schedule_step(phase))

    def _selection(self, params: nnx.State) -> Selections:
        return Selections(self.config.selection.metric, params, len(self.seeds))

    def _executor(self, phase: Phase, schedule: Schedule, done: int) -> ModelsExecutor:
        sampler = self._sampler(phase.name, phase.task)
        return ModelsExecutor(
            self._make_step(phase.task, sampler.size),
            self.layout,
            self._constants(phase),
            np.asarray(phase.num_steps),
            self._batches(phase.task, sampler, schedule, done),
            done,
        )

    def _evaluator(self, task: Task) -> Callable[[Any, np.ndarray], Any]:
        evaluator = self._task_evaluator(task)
        return lambda params, active: evaluator.of_models(params, active, self._poll)

    def _scores(self, task: Task, params: nnx.State) -> list[tuple[Metrics, Scores] | None]:
        evaluator = self._task_evaluator(task)
        return evaluator.scores_of_models(self._place(params), ~self.diverged, self._poll)

    def _task_evaluator(self, task: Task) -> ModelsEvaluator:
        return ModelsEvaluator(
            self.network, task, self.groups, self.config, self.layout, self.features
        )

    def _monitor(
        self, phase: Phase, schedule: Schedule, start: Start, write: Write
    ) -> ModelsMetrics:
        def say_diverged(diverged: dict[int, int], rest: int) -> None:
            models = ", ".join(f"seed {self.seeds[m]} at step {at}" for m, at in diverged.items())
            tqdm.write(
                f"{self._title(phase)}: diverged: {models} (loss, gradient or parameters not "
                f"finite); {rest} of {len(self.seeds)} models go on",
                file=sys.stderr,
            )

        taken = on_host(start.state.step)
        return ModelsMetrics(
            schedule,
            taken=taken,
            step=start.step,
            ends=np.asarray(phase.num_steps),
            write=write,
            say_diverged=say_diverged,
        )

    def _num_models(self) -> int:
        return len(self.seeds)

    def _phase_kind(self) -> Kind:
        one = record(
            {"step": whole(0), "metrics": optional(METRICS_OF_EXPERTS), "t1": optional(BEST_T1)}
        )
        kinds = {"steps": whole(0), "diverged_at": optional(whole(0)), "models": one}
        return record({name: listed(kind, len(self.seeds)) for name, kind in kinds.items()})

    def _best_kind(self, of_one: Kind) -> Kind:
        return listed(of_one, len(self.seeds))

    def _result_json(self, phase: Phase, selection: Any, monitor: Any) -> dict[str, Any]:
        return {
            "steps": monitor.steps.tolist(),
            "diverged_at": monitor.diverged_at,
            "evaluated_on": phase.label,
            "models": selection.best,
        }

    def _result(self, saved: dict[str, Any], params: nnx.State) -> ModelsResult:
        models = saved["models"]
        steps, metrics, best_t1 = ([m[key] for m in models] for key in ("step", "metrics", "t1"))
        return ModelsResult(saved["steps"], steps, metrics, best_t1, params, saved["diverged_at"])
