"""What a run of several processes does when one of them, its network or its disk fails.

  sudo unshare --net --mount --uts python -m benchmarks.failures --out=DIR [--processes=4] \
      [--failures=killed,stopped,network,full,unmounted] \
      [--stages=start,step,evaluation,checkpoint] [--which=0,3] [--silence=10] [--json=FILE]

Trains on made-up features, does the damage at the stage, and takes the time until every process
that could end has ended; then mends the damage, gives the same command again and compares the
selected parameters bit for bit with those of a run that nothing happened to. `killed` and `stopped`
(SIGSTOP) are done to the processes of `--which` in turn, the other failures to all. `network` takes
the loopback device down, `full` fills the disk of the work directory, `unmounted` takes that disk
away: hence namespaces of its own, without which it does nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from dedn_jax.errors import InputError
from dedn_jax.inference.run import open_run
from dedn_jax.training.logs import read_lines
from dedn_jax.training.workdir import Workdir

FAILURES = ("killed", "stopped", "network", "full", "unmounted")
STAGES = ("start", "step", "evaluation", "checkpoint")
OF_ONE = ("killed", "stopped")
FLAGS = [
    "--config=base",
    "--config.train.epochs=15",
    "--config.train.batch_size=10",
    "--config.train.balanced=false",
    "--config.train.log_every=1",
    "--config.train.evaluate_every=27",
    "--config.train.checkpoint_every=9",
    "--config.evaluate.batch_size=1",  # so that an evaluation lasts
    "--config.selection.protocol=test-best",
    "--config.data.groups=0;1-3;4-5",
]
DISK = 64  # MB, of the work directory
LONGEST = 300.0  # seconds; what has not ended by then hangs


def write_features(path: Path) -> Path:
    """A small file in the published layout, with some more images to evaluate."""
    rng = np.random.default_rng(0)
    classes, per_class, attributes = 8, 60, 6
    labels = np.repeat(np.arange(classes), per_class)
    number = np.arange(len(labels)) % per_class
    seen = labels < classes - 2
    att = rng.random((classes, attributes)).astype(np.float32)
    maps = rng.random((len(labels), 16, 3, 3)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["feature_map"] = maps + att[labels].mean(1)[:, None, None, None]
        file["labels"], file["att"] = labels, att
        file["w2v_att"] = rng.standard_normal((attributes, 20)).astype(np.float32)
        file["trainval_loc"] = np.flatnonzero(seen & (number < 20))
        file["test_seen_loc"] = np.flatnonzero(seen & (number >= 20))
        file["test_unseen_loc"] = np.flatnonzero(~seen)
    return path


@dataclasses.dataclass
class Trial:
    """One failure at one stage.

    Attributes:
      folder: of the trial; its `disk` is the work directory's file system.
      features: to train on.
      count: of processes.
      silence: seconds, as `dedn train --silence-timeout`.
    """

    folder: Path
    features: Path
    count: int
    silence: float

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    def start(self) -> list[subprocess.Popen]:
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        several = [f"--coordinator=localhost:{port}", f"--processes={self.count}"]
        flags = [*FLAGS, f"--workdir={self.run}", f"--config.data.path={self.features}"]
        limits = [f"--silence-timeout={self.silence}", "--stall-timeout=120", "--join-timeout=60"]
        processes = []
        for number in range(self.count):
            with (self.folder / f"output{number}.txt").open("w") as output:
                command = [sys.executable, "-m", "dedn_jax", "train", *flags, *several, *limits]
                processes.append(
                    subprocess.Popen(
                        [*command, f"--process={number}"],
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"JAX_PLATFORMS": "cpu"},
                    )
                )
        return processes

    def wait_for(self, stage: str, processes: Sequence[subprocess.Popen]) -> None:
        """Waits until the run is at a stage."""
        deadline = time.monotonic() + LONGEST
        while not self._is_at(stage):
            if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
                raise InputError(f"{self.folder}: the run ended or hung before the stage {stage!r}")
            time.sleep(0.005)

    def _is_at(self, stage: str) -> bool:
        if stage == "start":
            return any("waits for" in self.said(n) for n in range(self.count)) or self.run.exists()
        lines = read_lines(Workdir(self.run).metrics_file)
        if stage == "step":
            return len(lines) >= 12
        if stage == "evaluation":  # the first has begun, and not ended
            return len(lines) >= 27 and "evaluated_on" not in lines[-1]
        return len(lines) >= 9 and any(self.run.glob("final/checkpoints/*tmp*"))

    def said(self, number: int) -> str:
        """What a process printed."""
        return (self.folder / f"output{number}.txt").read_text(errors="replace")

    def last_line(self, number: int) -> str:
        lines = [
            text for text in self.said(number).replace("\r", "\n").splitlines() if text.strip()
        ]
        return lines[-1] if lines else ""

    def damage(self, failure: str, process: subprocess.Popen) -> None:
        if failure == "killed":
            process.kill()
        elif failure == "stopped":
            process.send_signal(signal.SIGSTOP)
        elif failure == "network":
            _do("ip", "link", "set", "lo", "down")
        elif failure == "full":
            # Also what is reserved for root, who this is.
            with (self.disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(2**12)):
                    pass
        else:
            _do("umount", "--lazy", str(self.disk))

    def mend(self, failure: str) -> None:
        if failure == "network":
            _do("ip", "link", "set", "lo", "up")
        elif failure == "full":
            (self.disk / "ballast").unlink()
        elif failure == "unmounted":
            # What was written to the empty folder below the disk is no part of the run.
            shutil.rmtree(self.disk)
            self.mount()

    def mount(self) -> None:
        """The work directory's disk: a file, so that it outlives being taken away."""
        self.disk.mkdir(parents=True, exist_ok=True)
        image = self.folder / "disk.img"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(DISK << 20)
            _do("mkfs.ext4", "-q", str(image))
        _do("mount", "-o", "loop", str(image), str(self.disk))


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)}: {done.stderr.strip()}")


def attempt(trial: Trial, failure: str, stage: str, which: int, expected: Any) -> dict[str, Any]:
    """Damages a run at a stage, mends it and resumes it; what came of it."""
    if failure in ("full", "unmounted"):
        trial.mount()
    processes = trial.start()
    trial.wait_for(stage, processes)
    trial.damage(failure, processes[which])
    began = time.monotonic()
    left = [p for i, p in enumerate(processes) if failure not in OF_ONE or i != which]
    while any(p.poll() is None for p in left) and time.monotonic() - began < LONGEST:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    hangs = sum(p.poll() is None for p in left)
    for process in processes:
        process.kill()
        process.wait()
    # Of those that were left: what the first of them said.
    speaker = next(i for i, p in enumerate(processes) if p in left)
    row = {
        "failure": f"{failure} {which}" if failure in OF_ONE else failure,
        "stage": stage,
        "seconds": seconds,
        "hang": hangs,
        "statuses": sorted({p.returncode for p in left}),
        "said": trial.last_line(speaker),
    }
    trial.mend(failure)
    again = trial.start()
    row["resumed"] = [p.wait() for p in again] == [0] * trial.count
    row["same"] = bool(row["resumed"]) and all(
        np.array_equal(a, b) for a, b in zip(parameters(trial.run), expected, strict=True)
    )
    if failure in ("full", "unmounted"):
        _do("umount", str(trial.disk))
    return row


def parameters(run: Path) -> list[np.ndarray]:
    """The selected parameters of a finished run."""
    return [np.asarray(x) for x in jax.tree.leaves(open_run(run).params)]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| failure | stage | seconds to end | status | resumed, same bits | last line |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        ended = f"{r['hang']} hang" if r["hang"] else f"{r['seconds']:.1f}"
        same = "yes" if r["same"] else "differs" if r["resumed"] else "no"
        statuses = ", ".join(map(str, r["statuses"]))
        said = r["said"][:150].replace("|", "/")
        lines.append(f"| {r['failure']} | {r['stage']} | {ended} | {statuses} | {same} | {said} |")
    return "\n".join(lines)


def enter_own_machine() -> None:
    """Checks that the network is of this command alone, and makes a loopback network of it.

    Raises:
      InputError: it is the machine's.
    """
    if devices := sorted({name for _, name in socket.if_nameindex()} - {"lo"}):
        raise InputError(
            f"finds the network device {devices[0]}, expected a machine of its own: sudo unshare "
            "--net --mount --uts python -m benchmarks.failures ..."
        )
    _do("ip", "link", "set", "lo", "up")
    socket.sethostname("localhost")  # by which processes find each other


def choices(flag: str, text: str, known: Sequence[str]) -> list[str]:
    """A comma-separated list of known words."""
    found = text.split(",")
    if unknown := [word for word in found if word not in known]:
        raise InputError(f"{flag}={unknown[0]}, expected some of {', '.join(known)}")
    return found


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the rows."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--failures", default=",".join(FAILURES))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--which", default="0,3", help="processes to kill and to stop")
    parser.add_argument("--silence", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    count = positive("--processes", args.processes)
    failures = choices("--failures", args.failures, FAILURES)
    stages = choices("--stages", args.stages, STAGES)
    which = [i for i in integers("--which", args.which) if i < count]
    enter_own_machine()
    args.out.mkdir(parents=True, exist_ok=True)
    features = write_features(args.out / "features.hdf5")
    whole = Trial(args.out / "whole", features, count, args.silence)
    whole.disk.mkdir(parents=True, exist_ok=True)
    if [p.wait() for p in whole.start()] != [0] * count:
        raise InputError(f"{whole.folder}: the run that nothing happened to has failed")
    expected = parameters(whole.run)
    rows = []
    for failure in failures:
        for stage in stages:
            for number in which if failure in OF_ONE else [count - 1]:
                folder = args.out / f"{failure}-{stage}-{number}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                trial = Trial(folder, features, count, args.silence)
                rows.append(attempt(trial, failure, stage, number, expected))
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    show_report(table(rows), {"processes": count, "silence": args.silence, "rows": rows}, args.json)
    return rows


if __name__ == "__main__":
    run_benchmark("benchmarks.failures", main)
