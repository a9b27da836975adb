"""The training loop: steps, and what is due between them.

`dedn train` and `dedn sweep` run this one loop, with executors, evaluators and selections of their
own: `training.trainer` and `sweep.trainer`.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from dedn_jax.parallel.executors import Executor
from dedn_jax.parallel.processes import is_main, max_over_processes
from dedn_jax.pulse import PULSE
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.checkpoint import Checkpoints, Snapshot
from dedn_jax.training.interrupt import Stopped, StopRequest, ending_the_run, stopped_run
from dedn_jax.training.logs import MetricsLog, NoLog
from dedn_jax.training.schedule import Schedule
from dedn_jax.training.step import TrainState
from dedn_jax.training.timing import StepClock

_POLL_EVERY = 8  # steps, or batches of an evaluation


class Monitor(Protocol):
    """Reads the metrics of steps, and knows which models still train.

    Attributes:
      steps: steps taken, valid once the loop has ended; `[models]` in a sweep.
    """

    @property
    def steps(self) -> Any: ...

    def add(self, first: int, count: int, state: TrainState, metrics: Any) -> None:
        """Takes what `Executor.run` returned for `count` steps, of which the first is `first`."""
        ...

    def settle(self) -> None:
        """Reads all there is; waits for the device.

        Raises:
          FloatingPointError: loss, gradient or parameters are not finite.
        """
        ...

    def active(self, step: int) -> np.ndarray:
        """`[models]` bool: which have taken that step."""
        ...

    def finished(self, step: int) -> bool:
        """Whether no model has a step left to take."""
        ...


class Selects(Protocol):
    """A `Selection`, or those of many models."""

    best: Any
    params: Any

    def update(self, step: int, metrics: Any, params: Any) -> None: ...

    def select(self, step: Any, params: Any) -> None: ...


@dataclasses.dataclass
class Loop:
    """A phase's training, from `step` to the last.

    Attributes:
      title: the phase's name in messages.
      schedule: what is due when.
      executor: runs the steps.
      evaluate: `(params, active) -> metrics`; raises Stopped.
      monitor: reads the metrics of steps.
      selection: the parameters selected so far.
      checkpoints: where snapshots go.
      log: where evaluations go.
      clock: runs while steps run.
      bar: the progress bar.
      stop: polled after every call, and by `evaluate`.
      callbacks: told of calls and of evaluations.
      step: steps done.
      evaluation_due: whether the parameters of `step` are still to be evaluated.
    """

    title: str
    schedule: Schedule
    executor: Executor
    evaluate: Callable[[Any, np.ndarray], Any]
    monitor: Monitor
    selection: Selects
    checkpoints: Checkpoints
    log: MetricsLog | NoLog
    clock: StepClock
    bar: Any
    stop: StopRequest
    callbacks: Sequence[Callback]
    step: int = 0
    evaluation_due: bool = False

    def run(self, state: TrainState) -> TrainState:
        """Trains to the last step.

        Args:
          state: of `step`, placed by the executor; its memory is reused.

        Returns:
          The last state, replicated.

        Raises:
          Interrupted: `stop` was set; the state is saved.
          FloatingPointError: the loss is no longer finite.
        """
        if self.evaluation_due and self.schedule.label:
            with ending_the_run(self._where()):
                self._evaluate(state)
        started = time.perf_counter()
        while not self.monitor.finished(self.step):
            first = self.step + 1
            count = min(self.executor.max_steps, self.schedule.next_due(self.step) - self.step)
            # The steps before still run on the device while batches are read and sent.
            state, metrics = self._call(state, count)
            self.step += count
            if started:
                self._first_call(metrics, count, started)
                started = 0.0
                self.clock.start()
            else:
                self.clock.steps += count
            self.bar.update(count)
            # Polled once: a signal that comes later in this iteration is answered in the next.
            signal = poll_stop(self.stop, self.step, count)
            saves, evaluates = self.schedule.saves(self.step), self.schedule.evaluates(self.step)
            self.monitor.add(first, count, state, metrics)
            if saves or evaluates or signal:
                self.monitor.settle()  # no checkpoint holds a NaN
            finished = self.monitor.finished(self.step)
            self.evaluation_due = evaluates and bool(self.monitor.active(self.step).any())
            if self.evaluation_due and not signal:
                try:
                    self._evaluate(state)
                except Stopped as stopped:
                    signal = stopped.signal_number
            if saves or signal or finished:
                self._save(state)
            if signal and (self.evaluation_due or not finished):
                raise stopped_run(signal, self._where())
        return self.executor.replicated(state)

    def _call(self, state: TrainState, count: int) -> tuple[TrainState, Any]:
        """Starts the next `count` steps; their state and metrics."""
        first, last = self.step + 1, self.step + count
        PULSE.beat(f"{self.title}: batch and step {first}")
        for callback in self.callbacks:
            callback.on_call_start(first, last, state)
        # A profile counts steps by it.
        with jax.profiler.StepTraceAnnotation("train", step_num=first):
            state, metrics = self.executor.run(state, count)
        for callback in self.callbacks:
            callback.on_call_end(first, last, metrics)
        return state, metrics

    def _evaluate(self, state: TrainState) -> None:
        with self.clock.paused():
            self._evaluate_now(state)

    def _evaluate_now(self, state: TrainState) -> None:
        label = self.schedule.label
        assert label is not None
        PULSE.beat(f"{self.title}: evaluation at step {self.step}")
        for callback in self.callbacks:
            callback.on_evaluation_start(self.step, label)
        params = self.executor.replicated(state.evaluated)
        metrics = self.evaluate(params, self.monitor.active(self.step))
        self.log.evaluation(self.step, label, metrics)
        self.selection.update(self.step, metrics, params)
        if selected := selected_text(self.selection, label):
            self.bar.set_postfix_str(selected, refresh=False)
        for callback in self.callbacks:
            # A copy: selection keeps them.
            callback.on_evaluation(self.step, label, copy.deepcopy(metrics))
        self.evaluation_due = False

    def _save(self, state: TrainState) -> None:
        # A model of a sweep that diverged has a smaller step in its state than the loop has.
        position = {
            "step": self.step,
            "best": self.selection.best,
            "evaluation_due": self.evaluation_due,
        }
        PULSE.beat(f"{self.title}: checkpoint of step {self.step}")
        with self.clock.paused():
            snapshot = Snapshot(self.executor.replicated(state), self.selection.params, position)
            self.checkpoints.save(self.step, snapshot)

    def _first_call(self, metrics: Any, count: int, started: float) -> None:
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - started
        for callback in self.callbacks:
            callback.on_first_call(count, seconds)
        if is_main():
            steps = "step" if count == 1 else f"{count} steps"
            text = f"first {steps} {seconds:.1f} s, compiling included"
            self.bar.write(text, file=sys.stderr)

    def _where(self) -> str:
        return f"at step {self.step} of {self.schedule.num_steps} of phase {self.title}"


def selected_text(selection: Selects, label: str | None) -> str:
    """The best evaluation so far, and on which images; "" before there is one."""
    best = str(selection)
    return f"{best} on {label}" if best else ""


def poll_stop(stop: StopRequest, done: int, count: int) -> int:
    """The signal that asks to stop, 0 for none; the same in all processes.

    Several processes exchange it every few steps only: each time they wait for the slowest.

    Args:
      stop: of this process.
      done: steps, or batches of an evaluation.
      count: how many of them since the last poll.
    """
    if jax.process_count() > 1 and done // _POLL_EVERY == (done - count) // _POLL_EVERY:
        return 0
    return max_over_processes(stop.signal_number)
