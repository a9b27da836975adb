"""Short texts that the processes of a run leave for each other, at JAX's coordinator.

Unlike a collective operation they need no device and no second thread of the other process, and
what does not come has a time limit.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from dedn_jax.errors import OthersError, one_line


def _client() -> Any:
    # JAX has no public name for it; Orbax and others reach it in the same way.
    from jax._src import distributed

    return distributed.global_state.client


def post(topic: str, text: str) -> None:
    """Leaves a text of this process for the others, in place of the one before."""
    _client().key_value_set(f"dedn/{topic}/{jax.process_index()}", text, allow_overwrite=True)


def read(topic: str, process: int) -> str | None:
    """What a process left; None while there is nothing."""
    try:
        return _client().key_value_try_get(f"dedn/{topic}/{process}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def read_all(topic: str) -> dict[int, str]:
    """What each process left, of those that left something."""
    found = _client().key_value_dir_get(f"dedn/{topic}/")
    return {int(key.rsplit("/", 1)[1]): text for key, text in found}


def wait_for(topic: str, process: int, seconds: float) -> str | None:
    """What a process left, waiting for it at most so long; None if nothing came."""
    try:
        return _client().blocking_key_value_get(
            f"dedn/{topic}/{process}", max(1, round(seconds * 1000))
        )
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise


def wait_for_all(topic: str, seconds: float) -> dict[int, str]:
    """What every process left, this one included, for process 0 to ask.

    Raises:
      OthersError: some left nothing in that time; it names them.
    """
    deadline = time.monotonic() + seconds
    for process in range(jax.process_count()):
        if wait_for(topic, process, deadline - time.monotonic()) is None:
            break
    found = read_all(topic)
    missing = [i for i in range(jax.process_count()) if i not in found]
    if missing:
        raise OthersError(f"{names(missing)} did not come within {seconds:.0f} s ({topic})")
    return found


def meet(name: str, seconds: float) -> None:
    """Waits until every process is here.

    Raises:
      OthersError: some did not come in that time; it names them.
    """
    post(f"meets at {name}", "")
    try:
        _client().wait_at_barrier(f"dedn {name}", round(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        here = read_all(f"meets at {name}")
        missing = [i for i in range(jax.process_count()) if i not in here]
        reason = f"within {seconds:.0f} s" if missing else f"({one_line(error)})"
        raise OthersError(
            f"{names(missing) or 'another process'} did not come {reason}: {name}"
        ) from error


def names(processes: list[int]) -> str:
    """Processes with the machines that they run on."""
    found = read_all("host")
    return ", ".join(
        f"process {i}" + (f" ({found[i]})" if i in found else "") for i in sorted(processes)
    )
