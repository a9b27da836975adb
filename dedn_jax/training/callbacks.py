"""What a training tells those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedn_jax.training.evaluation import Metrics
    from dedn_jax.training.phase import PhaseResult
    from dedn_jax.training.step import TrainState


class Callback:
    """Base class of what `dedn_jax.train` calls while it trains; every method does nothing.

    Override the methods you need. They run in the training's own thread, in the process that writes
    the log, after a line is written: a slow one holds the training up, and an exception ends it
    (other processes of the run end once this one has). A run that was finished before calls none.
    The numbers are those of `metrics.jsonl`.

    Examples:
      >>> class BestH(Callback):
      ...     best = 0.0
      ...
      ...     def on_evaluation(self, step, label, metrics):
      ...         self.best = max(self.best, metrics["fused"]["H"])
      >>> watcher = BestH()
      >>> watcher.on_evaluation(40, "validation classes", {"fused": {"H": 51.2}})
      >>> watcher.best
      51.2
    """

    def on_phase_start(self, phase: str) -> None:
        """Before a phase, `validation` or `final`, trains, resumes or is read as finished."""

    def on_call_start(self, first: int, last: int, state: TrainState) -> None:
        """Before the call of the program that takes steps `first` to `last`.

        Args:
          first, last: one and the same where batches are streamed.
          state: before them, on the devices, perhaps not yet computed; the call reuses its memory.
        """

    def on_call_end(self, first: int, last: int, metrics: Any) -> None:
        """After that call, which does not wait for the devices.

        Args:
          first, last: as before.
          metrics: of the steps, on the devices, perhaps not yet computed.
        """

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """After a logged step (`config.train.log_every`): the loss and its terms."""

    def on_first_call(self, steps: int, seconds: float) -> None:
        """After the first call of a phase's program, which compiles it, and its steps."""

    def on_evaluation_start(self, step: int, label: str) -> None:
        """Before an evaluation, when the step is done; arguments as for `on_evaluation`."""

    def on_evaluation(self, step: int, label: str, metrics: Metrics) -> None:
        """After an evaluation.

        Args:
          step: whose parameters were evaluated.
          label: which images they were evaluated on.
          metrics: U, S, H and T1 in percent, of `coarse`, `fine` and `fused`; S alone where no
            unseen class has an image.
        """

    def on_phase_end(self, phase: str, result: PhaseResult) -> None:
        """After a phase: its steps, the selected step, its metrics and parameters."""
