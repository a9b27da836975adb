"""Ends that ask no one: by a watchdog, or a second signal."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.outputs import all_output, whole

SCRIPT = """
import multiprocessing
import numpy as np
from dedn_jax.cli.quiet import quiet_libraries
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.pipeline import Reading, evaluation_batches
from dedn_jax.parallel.watchdog import end_now

quiet_libraries()
maps = InMemoryFeatures(np.ones((9, 64, 49), np.float32))
batches = evaluation_batches(maps, np.arange(9), 1, Reading(workers=2))
next(batches)
batch, _ = next(batches)  # of the second worker, which runs then
print(batch.shm.name, *[worker.pid for worker in multiprocessing.active_children()], flush=True)
end_now("nothing has got on")
"""


def test_workers_and_their_shared_memory_go_too(tmp_path: Path) -> None:
    """Released, with no word of it behind the line."""
    with all_output(SCRIPT, tmp_path) as (process, output):
        printed, _, said = whole(output).partition("\n")
    assert process.wait(60) == 1
    assert said == "\ndedn: nothing has got on\n"
    name, *workers = printed.split()
    left = [Path("/dev/shm", name), *(Path("/proc", pid) for pid in workers)]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(path.exists() for path in left):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


HANGS = """
import threading
import time
from dedn_jax.cli import main as cli

cli._LEAVING = 0.5
cli.main = lambda: 2
threading.Thread(target=time.sleep, args=(600,)).start()
cli.console()
"""


def test_what_has_failed_does_not_wait_for_a_thread() -> None:
    """As of a library whose checkpoint cannot be written."""
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, timeout=120)
    assert done.returncode == 2
    assert not done.stderr
