"""The processes that read ahead: how they start, end, and what it means when one is gone."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import mmap
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import grain
from grain.multiprocessing import SharedMemoryArray

from dedn_jax.errors import ProcessesError

# Where Linux keeps the memory that processes share; Docker gives a container 64 MB of it.
_SHARED_MEMORY = "/dev/shm"
# How long another thread may take to collect garbage, in seconds.
_COLLECTING = 10.0
# What grain says when a worker is not there any more.
_GONE = re.compile(r"terminated unexpectedly with exit code (-?\d+)")


def elements(dataset: grain.IterDataset, workers: int) -> Iterator[Any]:
    """The elements; ends the worker processes with the iteration, however that ends.

    Raises:
      ProcessesError: a worker was killed.
    """
    if workers:
        _release_at_exit()
    iterator = iter(dataset)
    try:
        yield from iterator
    except RuntimeError as error:
        if gone := _GONE.search(str(error)):
            raise ProcessesError(_why(-int(gone[1]), workers)) from error
        raise
    finally:
        iterator.close()
        if workers:
            # What ended the loop still refers to batches, in a cycle; shared memory is scarce.
            with _released_here():
                gc.collect()


@functools.cache  # once is enough
def _release_at_exit() -> None:
    """Frees batches that are left in cycles while their shared memory can still be released.

    Python does not finalise them later, and warns of leaked memory behind the results.
    """
    atexit.register(_release)


@contextlib.contextmanager
def _released_here() -> Iterator[None]:
    """Lets this thread release the memory of batches that it collects.

    grain has a thread that does so. The collector, however, finalises a batch and its memory
    one after the other, and both close the memory: two threads would do so at once, and the
    one that closes a closed file fails before it has released the memory.
    """
    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    setattr(SharedMemoryArray, "_del_thread_pool", None)  # noqa: B010
    try:
        yield
    finally:
        setattr(SharedMemoryArray, "_del_thread_pool", pool)  # noqa: B010


def _release() -> None:
    with _released_here():
        _collect()
    held = [each for each in gc.get_objects() if isinstance(each, SharedMemoryArray)]
    # grain releases memory in a thread of its own, one request after the other: a request that
    # does nothing is done when all are.
    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if pool is not None:
        pool.apply(int)
    # Globals of the program, say. Python finalises them when grain's modules are gone already.
    for batch in held:
        if isinstance(batch.base, mmap.mmap) and batch._unlink_on_del:
            batch._unlink_on_del = False
            batch.shm.unlink()
    setattr(SharedMemoryArray, "__del__", lambda _: None)  # noqa: B010


def _collect() -> None:
    """Collects garbage, for sure: Python does nothing while another thread is collecting."""
    collected = threading.Event()
    here = threading.get_ident()

    def note(phase: str, info: dict[str, int]) -> None:
        whole = phase == "stop" and info["generation"] == 2
        if whole and threading.get_ident() == here:
            collected.set()

    gc.callbacks.append(note)
    end = time.monotonic() + _COLLECTING
    gc.collect()
    while not collected.wait(0.01) and time.monotonic() < end:
        gc.collect()
    gc.callbacks.remove(note)


def _why(number: int, workers: int) -> str:
    """What killed a worker, by the number of the signal (or minus its exit status)."""
    try:
        what = f"was killed by {signal.Signals(number).name}"
    except ValueError:
        what = f"ended with status {-number}"
    if number == signal.SIGBUS and os.path.isdir(_SHARED_MEMORY):
        size = shutil.disk_usage(_SHARED_MEMORY).total
        advice = (
            f"batches pass through the shared memory of {_SHARED_MEMORY}, which has "
            f"{size / 1e6:.0f} MB here: give it more (docker run --shm-size=8g), or read without "
            "worker processes (--config.data.workers=0)"
        )
    elif number == signal.SIGKILL:
        advice = (
            "the system does that when memory runs out, and users do: see its log (dmesg); fewer "
            "workers need less memory; give the same command to go on from the last checkpoint"
        )
    else:
        advice = "see its lines above; --config.data.workers=0 reads without worker processes"
    return f"a process that reads pictures (--config.data.workers={workers}) {what}: {advice}"


def start_worker(number: int, workers: int) -> None:
    """Called in each worker process before it reads."""
    # Meant for the process that trains, which may need more batches before it can stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Pillow warns of a picture that is refused for its size; the error says so.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers; they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
