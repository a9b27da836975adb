"""Ends a run that waits for nothing: a process that is silent, or work that does not get on."""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from typing import NoReturn

import jax

from dedn_jax.parallel import board
from dedn_jax.pulse import PULSE

_LONGEST_INTERVAL = 2.0  # seconds between two looks
_FAREWELL = 2 * _LONGEST_INTERVAL
_TOPIC = "pulse"
_VERDICT = "verdict"

_leaving = threading.Event()  # this process ends by itself


class Watchdog:
    """Watches over this process, and over the others through the board.

    Process 0 reads what all the others post, and leaves a verdict, which they look for; they watch
    over process 0. A thread posts and reads, since that too hangs when the coordinator does, and
    another one keeps the time.

    Args:
      silence: seconds without a sign of life after which a process counts as gone.
      stall: seconds after which work that does not get on, in any process, ends the run.
    """

    def __init__(self, silence: float, stall: float) -> None:
        self._silence = silence
        self._stall = stall
        self._interval = min(_LONGEST_INTERVAL, min(silence, stall) / 6)
        self._several = jax.process_count() > 1
        self._me = jax.process_index()
        now = time.monotonic()
        watched = range(jax.process_count()) if self._me == 0 else [0, self._me]
        # Their latest sign of life and when it came, and the same of their work.
        self._signs = dict.fromkeys(watched, (0, now))
        self._works = dict.fromkeys(watched, (0, now))
        self._doing = dict.fromkeys(watched, PULSE.doing)
        self._verdict: str | None = None

    def start(self) -> None:
        """Begins to watch, until the process ends."""
        if self._several:
            exchange = threading.Thread(target=self._exchange, daemon=True)
            exchange.start()
            # Runs before JAX leaves the others, since JAX registered before: it must not be asked
            # for them afterwards.
            atexit.register(_leave, exchange)
        threading.Thread(target=self._watch, daemon=True).start()

    def _exchange(self) -> None:
        sign = 0
        while not _leaving.is_set():
            sign += 1
            mine = {"sign": sign, "work": PULSE.count, "doing": PULSE.doing}
            try:
                board.post(_TOPIC, json.dumps(mine))
                found = board.read_all(_TOPIC) if self._me == 0 else {0: board.read(_TOPIC, 0)}
                self._verdict = self._verdict or board.read(_VERDICT, 0)
            except jax.errors.JaxRuntimeError:
                found = {}  # the coordinator does not answer, and so gives no sign of life
            for process, text in found.items():
                if text and process != self._me:
                    self._note(process, **json.loads(text))
            _leaving.wait(self._interval)

    def _note(self, process: int, sign: int, work: int, doing: str, ended: str = "") -> None:
        if ended and self._me == 0:
            self._verdict = (
                f"{board.names([process])} has ended ({ended}); give the same command on all of "
                "them to go on from the last checkpoint"
            )
        now = time.monotonic()
        self._doing[process] = doing
        for table, value in ((self._signs, sign), (self._works, work)):
            if table[process][0] != value:
                table[process] = (value, now)

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(self._interval)
            now = time.monotonic()
            if now - before > self._interval + self._silence / 2:
                # This process itself was stopped, and knows nothing of the time between.
                for table in (self._signs, self._works):
                    table.update({i: (value, now) for i, (value, _) in table.items()})
            before = now
            self._note(self._me, self._signs[self._me][0] + 1, PULSE.count, PULSE.doing)
            if _leaving.is_set():
                return
            if line := self._verdict or self._judge(now):
                self._end(line)

    def _judge(self, now: float) -> str | None:
        silent = [i for i, (_, seen) in self._signs.items() if now - seen > self._silence]
        if silent:
            return (
                f"{board_names(silent, self._several)} has given no sign of life for "
                f"{self._silence:.0f} s (--silence-timeout), last {self._doing[silent[0]]!r}: it "
                "is stopped, or its machine or network is down; see to it, and give the same "
                "command on all of them to go on from the last checkpoint"
            )
        if all(now - moved > self._stall for _, moved in self._works.values()):
            doing = "; ".join(
                f"{board_names([i], self._several)} at {self._doing[i]!r}" for i in self._works
            )
            return (
                f"nothing has got on for {self._stall:.0f} s (--stall-timeout): {doing}; see "
                "whether its files, file system and decoding workers answer, and give the same "
                "command to go on from the last checkpoint"
            )
        return None

    def _end(self, line: str) -> NoReturn:
        if self._several and self._me == 0:
            # The others end by themselves when they have read it; without process 0 they could not.
            poster = threading.Thread(target=board.post, args=(_VERDICT, line), daemon=True)
            poster.start()
            time.sleep(3 * self._interval)
        end_now(line)


def _leave(thread: threading.Thread) -> None:
    _leaving.set()
    thread.join(_LONGEST_INTERVAL)


def farewell(line: str) -> None:
    """Tells the other processes, if there are any, why this one ends, so that they end too."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    _leaving.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may have gone
        if jax.process_index():
            board.post(_TOPIC, json.dumps({"sign": 0, "work": 0, "doing": "", "ended": line}))
        else:
            board.post(_VERDICT, f"{board.names([0])} has ended ({line})")
            time.sleep(_FAREWELL)  # it hosts the board, and the others read it there


def board_names(processes: list[int], several: bool) -> str:
    """Processes with their machines; one that is alone is "this process"."""
    if not several:
        return "this process"
    if jax.process_index() == 0:
        return board.names(processes)
    return ", ".join(f"process {i}" for i in processes)  # the board may not answer


def end_now(line: str, status: int = 1) -> NoReturn:
    """Ends the process and its decoding workers, whatever it waits for."""
    print(f"\ndedn: {line}", file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(status)
