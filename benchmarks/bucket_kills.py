"""Kills trainings whose work directory is in a fake bucket, at random times.

    .venv-bucket/bin/python -m benchmarks.bucket_kills [--kills=100] [--scheme=gs] [--json=FILE]

A tiny training is started over and over, each time with an empty temporary folder, as on a new
machine, and killed (SIGKILL) at a random time, counted at equal odds from when it began to fetch or
from its first steps, until one start comes to the end. Then its metrics, result and parameters must
be those of the same training on the local disk that nobody disturbed: every step is there once, and
no bit differs. Other trainings follow until there have been so many kills. Those in the file of
`--json` count: the same command goes on from there. Needs what `make bucket` installs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.failures import parameters, write_features
from benchmarks.fake_buckets import BUCKET, fake_amazon, fake_google
from dedn_jax.buckets.mirror import workdir_path
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.training.logs import read_lines
from dedn_jax.training.workdir import Workdir

FLAGS = [
    "--config=base",
    "--config.train.batch_size=10",
    "--config.train.checkpoint_every=5",
    "--config.train.evaluate_every=20",
    "--config.train.log_every=1",
    "--config.train.steps_per_call=1",
    "--config.data.groups=0;1-3;4-5",
]


def start(workdir: str | Path, flags: list[str], temporary: Path) -> subprocess.Popen[str]:
    """A training with an empty temporary folder of its own."""
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "dedn_jax", "train", f"--workdir={workdir}", *flags],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: str | Path, flags: list[str], temporary: Path) -> None:
    """A training that nobody disturbs.

    Raises:
      InputError: it failed.
    """
    process = start(workdir, flags, temporary)
    _, errors = process.communicate()
    _check(process, errors, (0,))


def _check(process: subprocess.Popen[str], errors: str, expected: Sequence[int]) -> None:
    if process.returncode not in expected:
        said = errors.strip().splitlines()[-1:] or [""]
        raise InputError(f"a start ended with status {process.returncode}: {said[0]}")


def _fetches(temporary: Path) -> bool:
    return any(temporary.glob("dedn-bucket-*/*"))


def _trains(temporary: Path) -> bool:
    # TensorBoard's files are not fetched, and have some bytes before the first step.
    files = temporary.glob("dedn-bucket-*/*/tensorboard/*/*")
    return any(file.stat().st_size > 1000 for file in files)


def killed_until_finished(
    address: str, flags: list[str], root: Path, longest: float, times: random.Random, most: int
) -> int:
    """Starts a training until one start finishes it; how many were killed, `most` at most.

    Raises:
      InputError: a start failed by itself.
    """
    kills = 0
    while kills < most:
        temporary = root / f"start{kills}"
        process = start(address, flags, temporary)
        begun = times.choice((_fetches, _trains))
        while process.poll() is None and not begun(temporary):
            time.sleep(0.02)
        try:
            _, errors = process.communicate(timeout=times.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
        _check(process, errors, (0, -signal.SIGKILL))
        if process.returncode == 0:
            return kills
        kills += 1
        print(f"{address}: killed {kills} times", file=sys.stderr, flush=True)
    finish(address, flags, root / "last")
    return kills


def differences(address: str, undisturbed: Path) -> list[str]:
    """In what two finished runs differ, of metrics, result and parameters."""
    folders = [Workdir(workdir_path(address)), Workdir(undisturbed)]
    lines, others = (read_lines(folder.metrics_file) for folder in folders)
    results = [read_json(folder.result_file) for folder in folders]
    found = zip(*(parameters(folder.path) for folder in folders), strict=True)
    same = {
        "metrics": lines == others,
        "result": results[0] == results[1],
        "parameters": all(np.array_equal(a, b) for a, b in found),
    }
    return [name for name, equal in same.items() if not equal]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns a row for every training."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--scheme", choices=("gs", "s3"), default="gs")
    parser.add_argument("--epochs", type=int, default=25, help="of the tiny trainings")
    parser.add_argument("--longest", type=float, default=8, help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    positive("--kills", args.kills)
    rows = read_json(args.json)["trainings"] if args.json and args.json.exists() else []
    server = fake_google() if args.scheme == "gs" else fake_amazon()
    with tempfile.TemporaryDirectory() as name, server as environment:
        root = Path(name)
        os.environ |= environment
        file = write_features(root / "features.hdf5")
        flags = [*FLAGS, f"--config.train.epochs={args.epochs}", f"--config.data.path={file}"]
        finish(root / "undisturbed", flags, root / "of the undisturbed")
        while (left := args.kills - sum(row["kills"] for row in rows)) > 0:
            times = random.Random(f"{args.seed} {len(rows)}")
            folder = root / str(len(rows))
            folder.mkdir()
            address = f"{args.scheme}://{BUCKET}/runs/{len(rows)}"
            began = time.monotonic()
            kills = killed_until_finished(address, flags, folder, args.longest, times, left)
            row = {"scheme": args.scheme, "kills": kills, "seconds": time.monotonic() - began}
            rows.append(row | {"differs": differences(address, root / "undisturbed")})
            show_report(str(rows[-1]), {"trainings": rows}, args.json)
    differing = [number for number, row in enumerate(rows) if row["differs"]]
    if differing:
        first = ", ".join(rows[differing[0]]["differs"])
        raise InputError(f"{len(differing)} of {len(rows)} trainings differ, the first in {first}")
    print(f"{sum(row['kills'] for row in rows)} kills, {len(rows)} trainings, none differs")
    return rows


if __name__ == "__main__":
    run_benchmark("benchmarks.bucket_kills", main)
