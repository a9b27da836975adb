"""A second Ctrl-C or SIGTERM ends the process, whatever it waits for."""

from __future__ import annotations

import os
import signal
import threading
import time

# Seconds in which two signals are one: schedulers send it to a process and to its group.
_SAME = 0.5


def end_on_second_signal() -> None:
    """Has a second signal end the process at once; the first is the job's own to answer.

    Python answers a signal between two of its own instructions, and so never while a collective
    operation or a file system waits for something that does not come. The number of each signal is
    written to a pipe without that wait.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_second, args=(reader,), daemon=True).start()


def _end_at_second(reader: int) -> None:
    first = None
    while True:
        for number in os.read(reader, 64):
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first > _SAME:
                from dedn_jax.parallel.watchdog import end_now

                end_now("ended at once, by a second signal", 128 + number)
