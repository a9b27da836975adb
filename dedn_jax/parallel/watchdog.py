"""Ends a run that waits for nothing: a process that is silent, or work that does not get on."""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from typing import NoReturn

import jax

from dedn_jax.parallel import board
from dedn_jax.pulse import PULSE

_LONGEST_INTERVAL = 2.0  # seconds between two looks
_READING = 2 * _LONGEST_INTERVAL  # seconds in which the others read what process 0 leaves
_SIGNS = "pulse"
# A topic of its own: a sign of life that is still on its way must not take the place of a farewell.
_FAREWELLS = "farewell"
_VERDICT = "verdict"

_leaving = threading.Event()  # this process ends by itself
_last_word = threading.Lock()  # held by whoever says why the process ends


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
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins to watch, until `stop` or until the process ends."""
        if self._several:
            exchange = threading.Thread(target=self._exchange, daemon=True)
            exchange.start()
            # Runs before JAX leaves the others, since JAX registered before: it must not be asked
            # for them afterwards.
            atexit.register(_leave, exchange)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Lets go of a job that has ended: what called it may go on without any work of ours.

        Signs of life for other processes go on until this one ends.
        """
        self._stopped.set()

    def _exchange(self) -> None:
        sign = 0
        while not _leaving.is_set():
            sign += 1
            # Without an answer, the coordinator gives no sign of life.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._exchange_once(sign)
            _leaving.wait(self._interval)

    def _exchange_once(self, sign: int) -> None:
        mine = {"sign": sign, "work": PULSE.count, "doing": PULSE.doing}
        board.post(_SIGNS, json.dumps(mine))
        if self._me == 0:
            for farewell in board.read_all(_FAREWELLS).values():
                self._hear(**json.loads(farewell))
        else:
            self._verdict = board.read(_VERDICT, 0)
        found = board.read_all(_SIGNS) if self._me == 0 else {0: board.read(_SIGNS, 0)}
        for process, text in found.items():
            if text and process != self._me:
                self._note(process, **json.loads(text))

    def _hear(self, ended: str, of_others: bool) -> None:
        """Takes the cause, rather than what came of it in another process."""
        if self._verdict is None or not of_others:
            self._verdict = ended

    def _note(self, process: int, sign: int, work: int, doing: str) -> None:
        now = time.monotonic()
        self._doing[process] = doing
        for table, value in ((self._signs, sign), (self._works, work)):
            if table[process][0] != value:
                table[process] = (value, now)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self._interval):
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

    def _end(self, line: str) -> None:
        with _last_word:
            if _leaving.is_set() or self._stopped.is_set():
                return
            if self._several and self._me == 0:
                # The others end by themselves when they have read it; without process 0 they could
                # not.
                poster = threading.Thread(target=board.post, args=(_VERDICT, line), daemon=True)
                poster.start()
                time.sleep(3 * self._interval)
            end_now(line)


def _leave(thread: threading.Thread) -> None:
    _leaving.set()
    thread.join(_LONGEST_INTERVAL)


def leave_to_itself() -> None:
    """This process is about to end and knows why: what others say of their ends is no news."""
    _leaving.set()


def take_leave(line: str, of_others: bool) -> None:
    """Says why this process ends, and tells the others, if there are any, so that they end too.

    Args:
      line: why; empty where nobody reads it.
      of_others: whether it ends because others have; where one of them has said why, that is said.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if several:
        _leaving.set()
    with _last_word:  # a watchdog that has it ends the process
        if several and of_others:
            line = _told() or line
        if line:
            print(f"dedn: {line}", file=sys.stderr, flush=True)
        if several:
            _tell(line, of_others)


def _tell(line: str, of_others: bool) -> None:
    mine = jax.process_index()
    if not of_others:
        line = (
            f"process {mine} ({socket.gethostname()}) has ended ({line or 'its output is closed'});"
            " give the same command on all of them to go on from the last checkpoint"
        )
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may have gone
        if mine:
            board.post(_FAREWELLS, json.dumps({"ended": line, "of_others": of_others}))
        else:
            board.post(_VERDICT, line)
            time.sleep(_READING)  # it hosts the board, and the others read it there


def _told() -> str | None:
    """Why another process has ended, if one has said so and the board answers."""
    causes: list[str] = []

    def look() -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for text in board.read_all(_FAREWELLS).values():
                told = json.loads(text)
                if not told["of_others"]:
                    causes.append(told["ended"])
            if verdict := board.read(_VERDICT, 0):
                causes.append(verdict)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_LONGEST_INTERVAL)
    return causes[0] if causes else None


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
