"""Reading batches of pictures: the input pipeline, and a bare loop that decodes and resizes.

  python -m benchmarks.input_pipeline [--prepared=DIR] [--pictures=256] [--side=448] [--batch=32]
      [--batches=16] [--rounds=9] [--workers=0,1,2] [--json=OUT]

The pipeline is what training reads from: shuffled uint8 batches of a prepared set on the host, by
threads of this process or by worker processes. The bare loop decodes and resizes the same encoded
pictures, which it holds in memory, in a pool of one thread a core, and drops the results: no
records, no batches, no prefetching. Both are interleaved; a share is the median over rounds of the
bare loop's time by the pipeline's. "of copy" is the share of the host's copy speed, measured in
every round, that writing the batches takes: decoding and resizing dominate. Workers are started,
and buffers filled, outside of the measurement. Pictures are made up (500 x 375, as those of CUB)
unless a prepared set is given.

At the end it compares the memory that the pipeline needs for sets of `--pictures` made-up pictures
and of four times as many, each in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from benchmarks.common import Peaks, host_peaks, peaks_line, spread
from benchmarks.decoding import synthetic
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.dataset import Task, trainval_task, with_inputs
from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.data.pictures.transforms import standard
from dedn_jax.data.pipeline import Reading, TrainBatches
from dedn_jax.data.prepared.build import build
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import Prepared, open_prepared
from dedn_jax.data.sampler import Sampler

_WIDTH, _HEIGHT = 500, 375
_DISTINCT = 128  # made-up pictures; larger sets repeat them
_AHEAD = 6  # batches that a worker or this process may hold or be making


def made_up_set(pictures: int, folder: Path) -> Path:
    """Builds a prepared set of that many JPEGs, quality 90; its folder."""
    encoded = synthetic(_WIDTH, _HEIGHT, min(pictures, _DISTINCT))
    labels = (np.arange(pictures + 2) % 2).astype(np.int32)
    labels[-1] = 2
    rng = np.random.default_rng(0)
    annotations = Annotations(
        source="made up",
        labels=labels,
        class_embeddings=rng.random((3, 4), np.float32),
        word_vectors=rng.random((4, 2), np.float32),
        trainval=np.arange(pictures),
        test_seen=np.asarray([pictures]),
        test_unseen=np.asarray([pictures + 1]),
        class_names=("a", "b", "c"),
        attribute_names=("w", "x", "y", "z"),
    )
    # A number behind the picture's end: files that are equal would be reported as an oversight.
    files = [
        Picture(f"{i}.jpg", encoded=data + b"%d" % i)
        for i, data in zip(range(len(labels)), itertools.cycle(encoded), strict=False)
    ]
    return build(PictureSet("made_up", annotations, files), folder).folder


def _task(prepared: Prepared, side: int) -> Task:
    transform = PictureTransform(side, side, False, 1.0, 0.0)
    pictures = Pictures(prepared.pictures, transform, prepared.digest)
    return trainval_task(with_inputs(prepared.annotations, pictures))


def _sampler(task: Task, batch: int) -> Sampler:
    return Sampler(task.train, task.labels[task.train], batch, False, seed=0, stream=0)


def _bare(encoded: list[bytes], side: int, pictures: int) -> Callable[[], float]:
    """What times the bare loop over `pictures` pictures; seconds."""
    threads = os.cpu_count() or 1

    def work(data: bytes) -> None:
        standard(decode(data, "JPEG"), side, side)

    def seconds() -> float:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(time.sleep, [0.01] * threads))  # starts them
            start = time.perf_counter()
            for _ in pool.map(work, itertools.islice(itertools.cycle(encoded), pictures)):
                pass
            return time.perf_counter() - start

    return seconds


def _pipeline(task: Task, sampler: Sampler, batches: int, workers: int) -> Callable[[], float]:
    """What times the pipeline over `batches` batches; seconds."""
    ahead = _AHEAD * max(workers, 1)

    def seconds() -> float:
        # It is as far ahead when the clock stops as when it starts.
        iterator = TrainBatches(task, sampler, batches + 2 * ahead, Reading(workers))
        for _ in range(ahead):
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        elapsed = time.perf_counter() - start
        for _ in iterator:
            pass
        return elapsed

    return seconds


def measure_speed(
    prepared: Prepared, side: int, batch: int, batches: int, rounds: int, workers: list[int]
) -> tuple[list[dict[str, Any]], Peaks]:
    """Times all in turn: a row for the bare loop and for each number of workers, and the peaks."""
    task = _task(prepared, side)
    sampler = _sampler(task, batch)
    used = np.concatenate([sampler(step) for step in range(batches)])
    encoded = [prepared.pictures[int(i)][0] for i in used]
    sides = {"bare loop": _bare(encoded, side, len(encoded))}
    for count in workers:
        name = f"pipeline, {count} worker{'' if count == 1 else 's'}"
        sides[name] = _pipeline(task, sampler, batches, count)
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks_of_rounds = []
    for turn in range(rounds + 1):  # the first warms up
        for name, seconds in sides.items():
            elapsed = seconds()
            if turn:
                times[name].append(elapsed)
        peaks_of_rounds.append(host_peaks(1))
    peak = Peaks.median(peaks_of_rounds)
    written = len(encoded) * 3 * side**2  # bytes
    rows = [
        {
            "name": name,
            "pictures_per_s": spread([len(encoded) / t for t in own]),
            "share": spread([b / t for b, t in zip(times["bare loop"], own, strict=True)]),
            "of_copy": written / median(own) / peak.copy,
        }
        for name, own in times.items()
    ]
    return rows, peak


def peak_memory() -> float:
    """The most memory this process has held, in MB."""
    try:
        # ru_maxrss of a started process begins with what its parent held.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e3
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _held(folder: Path, side: int, batch: int, batches: int) -> float:
    """MB that this process takes more while it reads; called in a process of its own."""
    task = _task(open_prepared(folder), side)
    sampler = _sampler(task, batch)
    for _ in TrainBatches(task, sampler, 1):  # what is loaded but once
        pass
    before = peak_memory()
    for _ in TrainBatches(task, sampler, batches):
        pass
    return peak_memory() - before


def measure_memory(folders: dict[int, Path], side: int, batch: int) -> list[dict[str, Any]]:
    """A row for each set: what reading all of its pictures once takes."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for pictures, folder in folders.items():
        with context.Pool(1) as pool:
            held = pool.apply(_held, (folder, side, batch, -(-pictures // batch)))
        encoded = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        rows.append({"pictures": pictures, "encoded_mb": encoded, "held_mb": held})
    return rows


def measure(
    prepared: Path | None,
    pictures: int,
    side: int,
    batch: int,
    batches: int,
    rounds: int,
    workers: list[int],
) -> dict[str, Any]:
    """Speeds of all sides, and memory for two sizes of sets."""
    with tempfile.TemporaryDirectory() as scratch:
        small = made_up_set(pictures, Path(scratch) / "small")
        large = made_up_set(4 * pictures, Path(scratch) / "large")
        opened = open_prepared(prepared or small)
        speed, peak = measure_speed(opened, side, batch, batches, rounds, workers)
        return {
            "environment": (
                f"{platform.machine()}, {os.cpu_count()} cores, Python "
                f"{platform.python_version()}, grain {version('grain')}, Pillow "
                f"{version('pillow')}"
            ),
            "set": opened.name if prepared else f"made up, {_WIDTH} x {_HEIGHT}",
            "pictures": len(opened.annotations.trainval),
            "side": side,
            "batch": batch,
            "batches": batches,
            "rounds": rounds,
            **peak.numbers(),
            "speed": speed,
            "memory": measure_memory({pictures: small, 4 * pictures: large}, side, batch),
        }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    side, batch = report["side"], report["batch"]
    lines = [
        report["environment"],
        f"{report['pictures']} JPEGs ({report['set']}) to [{batch}, {side}, {side}, 3] uint8, "
        f"{report['batches']} batches, {report['rounds']} rounds",
        peaks_line(report),
        f"{'':<22}{'pictures/s':>10}{'quartiles':>12}{'share':>9}{'quartiles':>14}{'of copy':>10}",
    ]
    for row in report["speed"]:
        speed, share = row["pictures_per_s"], row["share"]
        lines.append(
            f"{row['name']:<22}{speed['median']:10.0f}{speed['low']:6.0f} - {speed['high']:.0f}"
            f"{share['median']:9.2f}{share['low']:7.2f} - {share['high']:.2f}"
            f"{row['of_copy']:10.3f}"
        )
    lines += ["", "memory taken while reading, 0 workers"]
    lines += [
        f"{row['pictures']:>6} pictures of {row['encoded_mb']:.0f} MB: {row['held_mb']:.0f} MB"
        for row in report["memory"]
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepared", type=Path, help="a set that `dedn data build` wrote")
    parser.add_argument("--pictures", type=int, default=256, help="made up")
    parser.add_argument("--side", type=int, default=448, help="of the squares, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=16, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", default="0,1,2", help="processes that read")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    report = measure(
        args.prepared,
        positive("--pictures", args.pictures),
        positive("--side", args.side),
        positive("--batch", args.batch),
        positive("--batches", args.batches),
        positive("--rounds", args.rounds),
        integers("--workers", args.workers),
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("input_pipeline", main)
