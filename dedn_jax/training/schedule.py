"""When a phase logs, evaluates and saves."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What is due after which step, counted from 1; everything is due after the last.

    Attributes:
      num_steps: of the phase.
      log_every, evaluate_every, checkpoint_every: intervals in steps.
      label: names the images evaluated on wherever their numbers appear; None: no evaluation.
    """

    num_steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    label: str | None

    @classmethod
    def from_config(cls, config: ConfigDict, num_steps: int, label: str | None) -> Schedule:
        """By `config.train`; `evaluate_every` 0 is once an epoch."""
        train = config.train
        interval = num_steps
        if label:
            interval = train.evaluate_every or max(1, num_steps // train.epochs)
        return cls(num_steps, train.log_every, interval, train.checkpoint_every, label)

    def next_due(self, step: int) -> int:
        """The next step after which something but logging is due."""
        intervals = (self.evaluate_every, self.checkpoint_every)
        return min(self.num_steps, *((step // n + 1) * n for n in intervals))

    def max_steps(self, steps_per_call: int) -> int:
        """Steps of the longest call: none goes past what is due."""
        return min(steps_per_call, self.checkpoint_every, self.evaluate_every)

    def logs(self, step: int) -> bool:
        return self._due(step, self.log_every)

    def evaluates(self, step: int) -> bool:
        return self.label is not None and self._due(step, self.evaluate_every)

    def saves(self, step: int) -> bool:
        return self._due(step, self.checkpoint_every)

    def _due(self, step: int, interval: int) -> bool:
        return step % interval == 0 or step == self.num_steps
