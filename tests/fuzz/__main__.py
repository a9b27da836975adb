"""`make fuzz`: damages thousands of files of every kind that is read, and reads them.

    python -m tests.fuzz --inputs=10000

Each input is refused with one line or read; anything else, a stack trace, a process that ends, more
memory or time than the limits, is a failure. Prints what came of how many, and the largest memory
that an input took; ends with 1 after failures. `--number=N` with the same seed runs one again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from tests.fuzz.inputs import Outcome, files_of, make_corpus, run_input
from tests.fuzz.kinds import KINDS

_DATA = 6 * 2**30  # bytes of a process, so that a bomb ends it and not the machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--number", type=int, help="this input alone, in this process")
    parser.add_argument("--corpus", type=Path, help="made by an earlier call, or to be made")
    parser.add_argument("--kind", choices=KINDS, help="files of this kind alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _work(args)
    with tempfile.TemporaryDirectory(prefix="dedn-fuzz-") as name:
        corpus = args.corpus or Path(name) / "corpus"
        if not corpus.exists():
            make_corpus(corpus)
        if args.number is not None:
            print(run_input(args.number, args.seed, corpus, Path(name) / "work", args.kind))
            return 0
        return _summary(_all(args, corpus, Path(name)), files_of(args.kind))


def _all(args: argparse.Namespace, corpus: Path, folder: Path) -> list[tuple[int, Outcome]]:
    """The outcomes of all inputs; processes share them out."""
    found: list[tuple[int, Outcome]] = []

    def take(number: int, outcome: Outcome) -> None:
        found.append((number, outcome))
        if outcome.status == "failed":
            print(_failure(number, outcome), file=sys.stderr, flush=True)
        if len(found) % 500 == 0:
            print(f"{len(found)} inputs", file=sys.stderr, flush=True)

    def run_share(process: int) -> None:
        next_number, end = args.first + process, args.first + args.inputs
        while next_number < end:
            command = [sys.executable, "-m", "tests.fuzz", "--worker", f"--seed={args.seed}"]
            command += [f"--first={next_number}", f"--inputs={end}", f"--corpus={corpus}"]
            command += [f"--kind={args.kind}"] if args.kind else []
            environment = os.environ | {"DEDN_FUZZ": f"{folder}/{process}:{args.processes}"}
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
                assert worker.stdout is not None
                for line in worker.stdout:
                    number, *outcome = json.loads(line)
                    take(number, Outcome(*outcome))
                    next_number = number + args.processes
            if next_number < end:
                files = files_of(args.kind)
                kind, file = files[next_number % len(files)]
                text = f"its process ended with status {worker.returncode}"
                take(next_number, Outcome(kind, file, "failed", text, 0))
                next_number += args.processes

    threads = [threading.Thread(target=run_share, args=(p,)) for p in range(args.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _work(args: argparse.Namespace) -> int:
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA, _DATA))
    work, _, step = os.environ["DEDN_FUZZ"].rpartition(":")
    for number in range(args.first, args.inputs, int(step)):
        outcome = run_input(number, args.seed, args.corpus, Path(work), args.kind)
        print(json.dumps([number, *outcome]), flush=True)
    return 0


def _summary(found: list[tuple[int, Outcome]], files: list[tuple[str, str]]) -> int:
    print(f"{'kind':<10}{'file':<46}{'refused':>8}{'read':>7}{'failed':>7}{'peak MB':>9}")
    rows = Counter((o.kind, o.file, o.status) for _, o in found)
    for kind, file in files:
        own = [o for _, o in found if (o.kind, o.file) == (kind, file)]
        counts = "".join(f"{rows[kind, file, s]:>{w}}" for s, w in _COLUMNS)
        peak = max((o.peak for o in own), default=0)
        print(f"{kind:<10}{file:<46}{counts}{peak / 2**20:>9.0f}")
    totals = Counter(o.status for _, o in found)
    print(f"{len(found)} inputs: " + ", ".join(f"{totals[s]} {s}" for s, _ in _COLUMNS))
    return bool(totals["failed"])


def _failure(number: int, outcome: Outcome) -> str:
    return f"failed: --number={number} {outcome.kind} {outcome.file}: {outcome.text}"


_COLUMNS = (("refused", 8), ("read", 7), ("failed", 7))

if __name__ == "__main__":
    sys.exit(main())
