"""Kills a training whose work directory is in a fake bucket, at random times, until it is finished.

    .venv-bucket/bin/python -m benchmarks.bucket_kills --kills=100

A tiny training is started over and over, each time with an empty temporary folder, as on a new
machine, and killed (SIGKILL) after a random time since it began to train or to fetch. After the
last kill it may finish. Its metrics, result and parameters must be those of the same training on
the local disk that nobody disturbed, and the work directory must hold every step once. Needs what
`make bucket` installs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.helpers.buckets import BUCKET, fake_amazon, fake_google
from tests.made_up import published_file

FLAGS = [
    "--config=base",
    "--config.train.batch_size=10",
    "--config.train.checkpoint_every=5",
    "--config.train.evaluate_every=20",
    "--config.train.log_every=1",
    "--config.train.steps_per_call=1",
    "--config.data.groups=0;1-3;4-5",
]
_TIMING = ("time", "steps_per_second", "step_seconds", "goodput")


def start(workdir: str | Path, flags: list[str], temporary: Path) -> subprocess.Popen[str]:
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "dedn_jax", "train", f"--workdir={workdir}", *flags],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_it_works(process: subprocess.Popen[str], temporary: Path) -> None:
    """Waits until a training has a local copy, or has ended."""
    while process.poll() is None and not any(temporary.glob("dedn-bucket-*/*/dataset.json")):
        time.sleep(0.02)


def lines(text: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in _TIMING} for line in found]


def same(folder: Path, other: Path) -> bool:
    """Whether two work directories hold the same lines, result and parameters."""
    import jax

    from dedn_jax.inference.run import open_run

    runs = [open_run(path) for path in (folder, other)]
    pairs = zip(*(jax.tree.leaves(run.params) for run in runs), strict=True)
    return (
        runs[0].result == runs[1].result
        and all(np.array_equal(a, b) for a, b in pairs)
        and lines((folder / "metrics.jsonl").read_text())
        == lines((other / "metrics.jsonl").read_text())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--scheme", choices=("gs", "s3"), default="gs")
    parser.add_argument("--epochs", type=int, default=100, help="of the tiny training")
    parser.add_argument("--longest", type=float, default=10, help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    args = parser.parse_args()
    times = random.Random(args.seed)
    server = fake_google() if args.scheme == "gs" else fake_amazon()
    with tempfile.TemporaryDirectory() as name, server as environment:
        root = Path(name)
        os.environ |= environment
        file = published_file(root / "f.hdf5")
        flags = [*FLAGS, f"--config.train.epochs={args.epochs}", f"--config.data.path={file}"]
        address = f"{args.scheme}://{BUCKET}/runs/killed"
        kills = finished_early = 0
        for number in range(args.kills):
            process = start(address, flags, root / f"tmp{number}")
            until_it_works(process, root / f"tmp{number}")
            time.sleep(times.uniform(0, args.longest))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            finished_early += process.returncode == 0
            if process.returncode not in (0, -signal.SIGKILL):
                raise SystemExit(f"start {number} ended with status {process.returncode}")
            print(f"{number + 1}: killed {kills}", file=sys.stderr)
        last = start(address, flags, root / "last")
        _, errors = last.communicate()
        if last.returncode:
            raise SystemExit(errors)
        undisturbed = root / "local"
        start(undisturbed, flags, root / "tmp").communicate()
        from dedn_jax.buckets.mirror import workdir_path

        report = {"scheme": args.scheme, "kills": kills, "after_the_end": finished_early}
        print(json.dumps(report | {"same": same(workdir_path(address), undisturbed)}))


if __name__ == "__main__":
    main()
