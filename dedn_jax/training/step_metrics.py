"""The metrics of steps on their way from the device to whoever writes them."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import jax

from dedn_jax.parallel.executors import metrics_at


class StepMetrics:
    """Reads the metrics of a call of the step while the next one runs.

    The device would stand still if the host waited for each call before it started the next.

    Args:
      name: of the phase.
      wanted: whether a step's metrics are.
      write: takes those, in order.
    """

    def __init__(
        self, name: str, wanted: Callable[[int], bool], write: Callable[[int, dict], None]
    ) -> None:
        self._name, self._wanted, self._write = name, wanted, write
        self._calls: collections.deque[tuple[int, int, Any]] = collections.deque()

    def add(self, first: int, count: int, terms: Any) -> None:
        """Takes what `Executor.run` gave for `count` steps, of which the first is step `first`.

        Raises:
          FloatingPointError: as `settle`, of the call before.
        """
        self._calls.append((first, count, terms))
        while len(self._calls) > 1:
            self._read(*self._calls.popleft(), last=False)

    def settle(self) -> None:
        """Reads all; the last step's are finite then, wanted or not.

        Raises:
          FloatingPointError: loss, gradient or parameters are no numbers to go on from.
        """
        while self._calls:
            self._read(*self._calls.popleft(), last=not self._calls)

    def _read(self, first: int, count: int, terms: Any, *, last: bool) -> None:
        end = first + count - 1
        wanted = [step for step in range(first, end + 1) if self._wanted(step)]
        if not (wanted or last):
            return
        terms = jax.device_get(terms)
        for step in sorted({*wanted, end} if last else wanted):
            values = metrics_at(terms, step - first)
            _check_finite(self._name, step, values)
            if step in wanted:
                self._write(step, values)


def _check_finite(name: str, step: int, terms: dict[str, float]) -> None:
    bad = [k for k in ("loss", "gradient_norm", "parameter_norm") if not math.isfinite(terms[k])]
    if bad:
        bad += [k for k, v in terms.items() if k not in bad and not math.isfinite(v)]
        raise FloatingPointError(
            f"phase {name}, step {step}: {', '.join(bad)} not finite; the checkpoints are from "
            "before that. Check the features, or lower config.optimizer.learning_rate in a new "
            "--workdir"
        )
