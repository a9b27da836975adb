"""Python in processes of its own, with several simulated devices or several of them."""

from __future__ import annotations

import os
import socket

from tests.helpers.forks import Forked

_QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")


def xla_flags(devices: int = 1, *, quick: bool = True) -> str:
    """`XLA_FLAGS` for a process of its own: those of this one, and more.

    Args:
      devices: how many CPU devices JAX has.
      quick: compile without LLVM's optimisations, in half the time.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [f"--xla_force_host_platform_device_count={devices}", *(_QUICK if quick else ())]
    # What is compiled is kept by its flags: none of them twice, or other processes lack it.
    return " ".join(dict.fromkeys(flags))


def run_on_devices(*arguments: str, devices: int = 8, quick: bool = False) -> tuple[str, str]:
    """What `python ARGUMENTS`, which has to succeed, wrote: output and errors.

    Args:
      arguments: such as `-m`, and the name of a module of tests.
      devices, quick: see `xla_flags`.
    """
    process = Forked(*arguments, XLA_FLAGS=xla_flags(devices, quick=quick))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def free_port() -> int:
    """Of this machine; nothing listens there yet."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def process_flags(processes: int) -> list[list[str]]:
    """The flags of each of several processes on this machine that do one job together."""
    common = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
    return [[*common, f"--process={i}"] for i in range(processes)]
