"""Jobs of `dedn`, one after another in one process, or in each of several that do them together.

What a process takes to start, and to trace and compile what the jobs share, it takes once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from dedn_jax.training.logs import read_lines
from tests.helpers.devices import process_flags, xla_flags
from tests.helpers.forks import Forked


def do_jobs(*jobs: list[str], devices: int = 1, processes: int = 1) -> list[tuple[str, str]]:
    """What each process wrote, to output and to errors. All jobs have to succeed.

    Args:
      jobs: arguments of `dedn`, without those that join the processes: they join once.
      devices: of each process.
      processes: how many.
    """
    everyone = process_flags(processes) if processes > 1 else [[]]
    job = ["-m", "tests.helpers.jobs", json.dumps(jobs)]
    started = [Forked(*job, *own, XLA_FLAGS=xla_flags(devices)) for own in everyone]
    wrote = [process.communicate(timeout=300 + 60 * len(jobs)) for process in started]
    for process, (_, errors) in zip(started, wrote, strict=True):
        assert process.returncode == 0, errors
    return wrote


def wait_for_steps(run: Path, count: int, processes: list[Forked]) -> None:
    """Until that many lines are logged; fails at once where one of the processes has ended."""
    deadline = time.monotonic() + 240
    while len(read_lines(run / "metrics.jsonl")) < count:
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _main() -> None:
    from dedn_jax.cli.main import main
    from dedn_jax.parallel import joining

    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=json.loads)
    parser.add_argument("--coordinator")
    for name in ("--processes", "--process"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    if args.coordinator:
        joining.initialize(args.coordinator, args.processes, args.process)
    for job in args.jobs:
        assert main(job) == 0, job


if __name__ == "__main__":
    _main()
