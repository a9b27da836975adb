"""A trace of some steps of a training, which TensorBoard and Perfetto show."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax
from tqdm import tqdm

from dedn_jax.errors import InputError, one_line
from dedn_jax.parallel.processes import is_main
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.interrupt import Interrupted


class Profile(Callback):
    """Traces steps of the first phase that takes any of them, once, by `jax.profiler`.

    Calls are not cut: the trace is of those that contain the steps, from when the device has done
    all before them to when it has done the last of them, with what comes between calls, such as
    evaluations. The operations carry the names of the parts of a step: fold, region, channel,
    losses, optimizer, lookup, exchange.

    Of several processes only the main one traces, its own devices: all run the same program in
    step, one that is late shows as a long exchange, and no other writes to the work directory.

    To be entered as a context around the training: it ends a trace that an error cut short, and
    says so where nothing was traced.

    Args:
      first, last: the steps, counted from 1 in a phase as in `metrics.jsonl`.
      folder: TensorBoard's; the trace is in its `plugins/profile`.
    """

    def __init__(self, first: int, last: int, folder: Path) -> None:
        self._first, self._last, self._folder = first, last, folder
        self._traces = folder / "plugins" / "profile"  # as TensorBoard has it
        self._phase, self._done = "", False
        self._traced: tuple[int, int] | None = None  # steps so far, while a trace runs

    @classmethod
    def from_flag(cls, text: str, folder: Path) -> Profile:
        """Of `START:STOP`, both included.

        Raises:
          InputError: `text` is something else.
        """
        found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
        first, last = map(int, found.groups()) if found else (0, 0)
        if not 1 <= first <= last:
            raise InputError(
                f"--profile={text}, expected START:STOP, the first and the last step to trace, "
                "counted from 1, such as 101:110"
            )
        return cls(first, last, folder)

    def on_phase_start(self, phase: str) -> None:
        self._phase = phase

    def on_call_start(self, first: int, last: int, state: Any) -> None:
        if self._traced:
            self._traced = self._traced[0], last
        elif not self._done and first <= self._last and last >= self._first:
            jax.block_until_ready(state)
            self._start()
            self._traced = None if self._done else (first, last)

    def on_call_end(self, first: int, last: int, metrics: Any) -> None:
        if self._traced and last >= self._last:
            jax.block_until_ready(metrics)
            self._finish()

    def on_phase_end(self, phase: str, result: Any) -> None:
        if self._traced:
            self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if self._traced:
            self._finish()
        elif not self._done and (error is None or isinstance(error, Interrupted)) and is_main():
            _say(f"nothing traced: no step from {self._first} to {self._last} was taken")

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows down what is timed
        with self._going_on():
            self._traces.mkdir(parents=True, exist_ok=True)  # fails now rather than at the end
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )

    def _finish(self) -> None:
        assert self._traced is not None
        (first, last), self._traced = self._traced, None
        with self._going_on():
            jax.profiler.stop_trace()
        if self._done:
            return
        self._done = True
        asked = ""
        if (first, last) != (self._first, self._last):
            asked = f" (whole calls of the program; asked for {self._first} to {self._last})"
        _say(f"traced steps {first} to {last} of phase {self._phase}{asked}; see {self._traces}")

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Within the block an error ends the profile and not the training."""
        try:
            yield
        except Exception as error:
            self._done = True
            _say(f"no trace written: {one_line(error)}")


def _say(text: str) -> None:
    tqdm.write(f"profile: {text}", file=sys.stderr)
