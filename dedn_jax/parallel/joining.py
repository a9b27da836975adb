"""Joining the processes of a run, and what JAX's runtime does when one of them goes."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import jax

from dedn_jax.errors import InputError, ProcessesError, one_line
from dedn_jax.parallel import board
from dedn_jax.parallel.limits import JOIN_TIMEOUT, SILENCE_TIMEOUT

# Seconds after which the joining says that it waits.
_QUIET = 1.0
# Seconds that JAX waits longer than this project, which can say who is missing.
_MARGIN = 30

_GONE = (
    "another process of this run has ended, or cannot be reached; see its output, and give the "
    "same command on all of them to go on from the last checkpoint"
)
_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    join_timeout: float = JOIN_TIMEOUT,
    silence_timeout: float = SILENCE_TIMEOUT,
) -> None:
    """Joins this process to the others of a run; before anything else uses JAX.

    Without arguments they are found by JAX, which knows Cloud TPU pods, GKE and Slurm. From here on
    the process ends with one line and status 1 where JAX's runtime would abort it, as it does when
    the coordinator has gone.

    Args:
      coordinator: `host:port` of process 0.
      processes: how many there are.
      process: which one this is, from 0.
      join_timeout: seconds to wait for the others.
      silence_timeout: seconds after which a process that does not answer counts as gone.

    Raises:
      InputError: numbers or an address that do not fit.
      ProcessesError: the others cannot be reached.
    """
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(f"--process={process}, expected 0 to {processes - 1} (--processes - 1)")
    if coordinator is not None:
        _check_address(coordinator, listens=process == 0)
    where = f"at --coordinator={coordinator}" if coordinator else "of --distributed"
    which = "" if process is None else f"process {process} of {processes} "
    waits = (
        f"{which}waits for the others {where}, for {join_timeout:.0f} s at most (--join-timeout)"
    )
    began = time.monotonic()

    def late() -> str:
        waited = time.monotonic() - began
        return (
            f"dedn: {which}waited {waited:.0f} s for the others {where}, and could not join them; "
            "see whether each was started, has a number of its own (--process) and reaches that "
            "address, and give the same command on all of them"
        )

    abort = _OnAbort(late)
    with _held_stderr() as stderr, _ctrl_c_ends():
        abort.stderr = stderr
        notice = threading.Timer(_QUIET, lambda: print(f"dedn: {waits}", file=stderr, flush=True))
        notice.start()
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=max(1, round(join_timeout)),
                heartbeat_timeout_seconds=round(silence_timeout) + _MARGIN,
            )
        except (RuntimeError, ValueError) as error:
            raise ProcessesError(
                f"{which}cannot join the others {where}: {one_line(error)}"
            ) from error
        finally:
            notice.cancel()
    abort.stderr, abort.line = sys.stderr, lambda: f"\ndedn: {_GONE}"
    board.post("host", socket.gethostname())


def _check_address(coordinator: str, listens: bool) -> None:
    host, _, text = coordinator.rpartition(":")
    port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not host or not 1 <= port <= 65535:
        raise InputError(
            f"--coordinator={coordinator}, expected HOST:PORT of process 0, with a port from 1 to "
            "65535, such as 10.0.0.2:8476"
        )
    if not listens:
        return
    both = socket.has_dualstack_ipv6()  # containers may have IPv4 alone
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise InputError(
            f"--coordinator={coordinator}: process 0 cannot listen on port {port} "
            f"({error.strerror or error}); if another program or an earlier run has it, end that, "
            "or choose another port on all processes"
        ) from error


class _OnAbort:
    """Ends the process with one line and status 1 where JAX's runtime calls abort.

    It offers no other way: its callback for a lost coordinator cannot be a Python function.

    Attributes:
      line: gives what to say.
      stderr: where to.
    """

    def __init__(self, line: Callable[[], str]) -> None:
        self.line = line
        self.stderr: IO[str] = sys.stderr
        # Kept for as long as the process lives, since C holds the pointer.
        self._handler = _ABORT_HANDLER(self._end)
        _handle_abort(ctypes.cast(self._handler, ctypes.c_void_p))
        _kept.append(self)
        # Registered before JAX is: it runs when JAX has left the others, and before Python ends.
        atexit.register(_handle_abort, None)

    def _end(self, _: int) -> None:
        # The runtime calls it from a thread of its own, outside any other signal handler.
        _handle_abort(None)  # should Python not be able to go on
        print(self.line(), file=self.stderr, flush=True)
        os._exit(1)


_kept: list[_OnAbort] = []


def _handle_abort(handler: ctypes.c_void_p | None) -> None:
    """Has C call a function at SIGABRT; None: what it does by itself."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)


@contextmanager
def _held_stderr() -> Iterator[IO[str]]:
    """Keeps what the runtime prints off standard error; gives a way there for our own lines.

    When others do not come, the runtime prints the stack of a failed check, and aborts.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, os.fdopen(kept, "w", closefd=False) as stderr:
        os.dup2(file.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(kept, 2)
    os.close(kept)


@contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    """Python cannot answer Ctrl-C while the runtime waits: it ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
