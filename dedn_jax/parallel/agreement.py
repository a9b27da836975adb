"""What the processes of a run must have in common, compared before they work together."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from dedn_jax.errors import InputError, OthersError
from dedn_jax.parallel import board
from dedn_jax.parallel.limits import MEETING_TIMEOUT, SILENCE_TIMEOUT
from dedn_jax.parallel.processes import is_main
from dedn_jax.parallel.watchdog import leave_to_itself
from dedn_jax.pulse import PULSE

# Seconds for which a file that another process wrote may stay unseen: network file systems
# remember for a while that a name was not there.
_CACHED = 30.0
_TOKEN = ".shared-by-processes"

# Every process compares the same things in the same order; a program may do so more than once.
_rounds = itertools.count()


def check_agreement(topic: str, mine: Mapping[str, object]) -> None:
    """Compares fields with those of process 0; every process has to ask.

    Args:
      topic: what the fields describe, for the message.
      mine: JSON-ready fields of this process.

    Raises:
      InputError: a process differs; all of them say which, and in what.
      OthersError: some did not come in time; it names them.
    """
    if jax.process_count() > 1:
        _settle(topic, json.dumps(dict(mine), sort_keys=True, default=str), _difference)


def check_shared(folder: Path) -> None:
    """Whether all processes see the same folder, by a file that process 0 writes there.

    Raises:
      InputError: one of them does not, or the folder cannot be written.
      OthersError: some did not come in time; it names them.
    """
    if jax.process_count() == 1:
        return
    token, file = f"the token ({next(_rounds)})", folder / _TOKEN
    if is_main():
        text = secrets.token_hex(16)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        finally:
            board.post(token, text)
    try:
        found = _is_there(file, board.wait_for(token, 0, MEETING_TIMEOUT))
        _settle("the shared folder", "" if found else str(folder), _not_shared)
    finally:
        if is_main():
            file.unlink(missing_ok=True)


def _settle(topic: str, mine: str, judge: Callable[[str, dict[int, str]], str]) -> None:
    """Has process 0 judge what all processes post; all raise what it found, if anything."""
    PULSE.beat(f"comparing {topic} with the other processes")
    asked = f"{topic} ({next(_rounds)})"
    board.post(asked, mine)
    verdict = f"verdict on {asked}"
    text: str | None
    if is_main():
        text = judge(topic, board.wait_for_all(asked, MEETING_TIMEOUT))
        board.post(verdict, text)
    else:
        text = board.wait_for(verdict, 0, 2 * MEETING_TIMEOUT)
    if text is None:
        raise OthersError(f"{board.names([0])} did not answer: {topic}")
    if text:
        # All end for the same reason: none of them because another was quicker to.
        leave_to_itself()
        board.post(f"{verdict}, read", "")
        if is_main():  # the others read it here
            with contextlib.suppress(OthersError):
                board.wait_for_all(f"{verdict}, read", SILENCE_TIMEOUT)
            time.sleep(1)
        raise InputError(text)


def _difference(topic: str, texts: dict[int, str]) -> str:
    found = {process: json.loads(text) for process, text in texts.items()}
    first = found[0]
    for process, fields in found.items():
        names = [k for k in first | fields if first.get(k) != fields.get(k)]
        if names:
            shown = ", ".join(
                f"{k}={fields.get(k, 'nothing')}, not {first.get(k, 'nothing')}" for k in names[:3]
            )
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return (
                f"the processes differ in {topic}: {board.names([process])} has {shown}{more} as "
                f"{board.names([0])} has; give all of them the same"
            )
    return ""


def _not_shared(topic: str, texts: dict[int, str]) -> str:
    missing = [process for process, text in texts.items() if text]
    if not missing:
        return ""
    return (
        f"{texts[missing[0]]}: {board.names(missing)} found nothing of what "
        f"{board.names([0])} wrote there "
        f"{_CACHED:.0f} s before; all of them have to see the same folder: is its file system "
        "mounted on each machine?"
    )


def _is_there(file: Path, expected: str | None) -> bool:
    deadline = time.monotonic() + _CACHED
    while True:
        try:
            if file.read_text() == expected:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
