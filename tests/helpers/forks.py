"""Processes of Python that need not import the package: forks of one that has.

A processor takes four seconds to import JAX, Flax, Orbax and grain, as long as it then takes for a
tiny training. Devices and threads are started in the fork, as in any process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from jax._src import compiler, distributed

ROOT = Path(__file__).resolve().parent.parent.parent
# JAX reads its variables when it is imported: all forks have the same.
_JAX = {"JAX_PLATFORMS": "cpu"}
_IMPORTED = ("cli.main", "inference.run", "inference.predict_processes", "sweep.run")


class Forked:
    """What tests need of `subprocess.Popen([sys.executable, *arguments], text=True)`.

    Attributes:
      pid: its number.
      returncode: as of `Popen`: None until `poll`, `wait` or `communicate` has seen the end.
    """

    def __init__(self, *arguments: str, folder: Path | None = None, **environment: str) -> None:
        """Starts it.

        Args:
          arguments: `-m` and a module's name or `-c` and code, and what either is given.
          folder: where it runs; by default where this process does.
          environment: variables besides those of this process.
        """
        wanted = os.environ | _JAX | environment
        for name in {*wanted, *_first().environment}:
            if name.startswith("JAX_"):
                assert wanted.get(name) == _first().environment.get(name), (
                    f"{name}: JAX has been imported"
                )
        self.returncode: int | None = None
        self._output = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self._ends, ends = socket.socketpair(type=socket.SOCK_SEQPACKET)
        folder = folder or Path.cwd()
        request = {"arguments": arguments, "environment": wanted, "folder": str(folder)}
        with ends:
            files = [file.fileno() for file in (*self._output, ends)]
            socket.send_fds(_first().requests, [json.dumps(request).encode()], files)
        self.pid = self._number()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._ends], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = self._number()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; what it wrote to standard output and to standard error."""
        self.wait(timeout)
        for file in self._output:
            file.seek(0)
        output, errors = (file.read() for file in self._output)
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        number = self._ends.recv(32)
        assert number, "the process that is forked has ended"
        return int(number)


class _First:
    """The process that is forked. It ends with this one, which holds the other end of a socket."""

    def __init__(self) -> None:
        self.environment = os.environ | _JAX
        self.requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.forks", str(theirs.fileno())],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )


_first = functools.cache(_First)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, about threads that are not there yet
        return os.fork()


def _keep(child: int, ends: int) -> NoReturn:
    """Says the number of a process and, once it has ended, its exit status."""
    os.write(ends, str(child).encode())
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(ends, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _forked(requests: socket.socket) -> list[str]:
    """Forks for every request; returns in the forks alone, with their arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for forks
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            os._exit(0)
        if _fork() == 0:
            break
        for file in files:
            os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    requests.close()
    *output, ends = files
    if child := _fork():
        for file in output:
            os.close(file)
        _keep(child, ends)
    os.close(ends)
    for file, number in zip(output, (1, 2), strict=True):
        os.dup2(file, number)
        os.close(file)
    given = json.loads(request)
    os.chdir(given["folder"])
    os.environ.clear()
    os.environ.update(given["environment"])
    tempfile.tempdir = None  # asked for again: TMPDIR may be another
    return given["arguments"]


def _keep_what_any_compiles() -> None:
    """Of the processes of one job, JAX has only the first keep what it compiled for others to find.

    The second compiled its programs again in every test.
    """
    write, own = compiler._cache_write, distributed.global_state

    def write_anywhere(*arguments: Any) -> None:
        number, own.process_id = own.process_id, 0
        try:
            write(*arguments)
        finally:
            own.process_id = number

    compiler._cache_write = write_anywhere


def _main() -> None:
    # For training, sweeping, evaluating and predicting; a fork imports what is missing.
    for name in _IMPORTED:
        importlib.import_module(f"dedn_jax.{name}")
    _keep_what_any_compiles()
    gc.collect()
    gc.freeze()  # the collector of a fork need not touch, and so copy, all of it
    gc.set_threshold(20_000, 20, 20)  # as in the process of pytest
    kind, what, *rest = _forked(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = ModuleType("__main__")
        exec(what, vars(sys.modules["__main__"]))


if __name__ == "__main__":
    _main()
