"""`dedn features extract`: the command, the backbone alone and the input pipeline alone.

  python -m benchmarks.extract [--pictures=256] [--side=224] [--backbone=resnet18]
      [--dtype=float32] [--batch=16] [--workers=0] [--rounds=5] [--json=OUT]

Pictures are made up (500 x 375 JPEGs, as those of CUB), weights random. All three are interleaved,
so that noise affects them alike. Extraction is timed between the first shard it writes, when all is
compiled and read ahead, and its last; a shard is a batch. The backbone computes a batch that is on
the device again and again; the pipeline decodes, resizes and makes batches that are dropped. The
slower of the two is what bounds extraction, and `of_bound` is the part of that; on a CPU both want
the same cores, and extraction cannot come near 1. `share` is of what the machine can do at most,
measured in every round: the backbone's products by a matrix product of their type on the device,
and the uint8 pictures that the pipeline writes by a copy in host memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import (
    Peaks,
    Row,
    environment,
    host_peaks,
    peaks,
    peaks_line,
    picture_flops,
    spread,
    text_table,
)
from benchmarks.input_pipeline import made_up_set
from benchmarks.memory import random_weights
from dedn_jax.config import load_config
from dedn_jax.data.features.store.writer import StoreWriter
from dedn_jax.data.load import load_prepared, open_pictures
from dedn_jax.data.pipeline import Reading, evaluation_batches
from dedn_jax.errors import InputError
from dedn_jax.inference.extract import extract_features
from dedn_jax.model.picture_model import backbone_maps
from dedn_jax.training.network import load_backbone

Speed = Callable[[], float]  # pictures a second


def _whole(config: ConfigDict, pictures: int) -> Speed:
    size = config.evaluate.batch_size

    def speed() -> float:
        times: list[float] = []
        write = StoreWriter.write

        def noted(writer: StoreWriter, shard: int, features: np.ndarray) -> None:
            write(writer, shard, features)
            times.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder, patch.object(StoreWriter, "write", noted):
            out = Path(folder) / "store"
            extract_features(config, out, dtype="bfloat16", normalized=True, shard_images=size)
        return (pictures - size) / (times[-1] - times[0])

    return speed


def _backbone(config: ConfigDict, batches: int) -> Speed:
    definition, values = nnx.split(load_backbone(config)[0])
    size, side = config.evaluate.batch_size, config.picture.crop
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (size, side, side, 3), np.uint8))

    @jax.jit
    def compute(values: nnx.State, images: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), images)

    def speed() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            result = compute(values, images)
        jax.block_until_ready(result)
        return batches * size / (time.perf_counter() - start)

    return speed


def _pipeline(config: ConfigDict) -> Speed:
    pictures = open_pictures(load_prepared(config), config)
    size, reading = config.evaluate.batch_size, Reading(config.data.workers)

    def speed() -> float:
        batches = evaluation_batches(pictures, np.arange(len(pictures)), size, reading)
        next(batches)  # starts it
        start = time.perf_counter()
        done = sum(count for _, count in batches)
        return done / (time.perf_counter() - start)

    return speed


def measure(
    pictures: int, side: int, backbone: str, dtype: str, batch: int, workers: int, rounds: int
) -> dict[str, Any]:
    """Pictures a second of each, and which of the two bounds extraction."""
    if pictures < 3 * batch:
        raise InputError(f"--pictures={pictures}, expected at least three batches of {batch}")
    with tempfile.TemporaryDirectory() as scratch:
        prepared = made_up_set(pictures, Path(scratch) / "set")
        weights = random_weights(backbone, Path(scratch) / "weights.safetensors")
        config = load_config(
            "base",
            [
                "--config.data.format=prepared",
                "--config.data.source=images",
                f"--config.data.path={prepared}",
                f"--config.data.workers={workers}",
                f"--config.backbone.name={backbone}",
                f"--config.backbone.dtype={dtype}",
                f"--config.backbone.weights={weights}",
                f"--config.picture.resize={side}",
                f"--config.picture.crop={side}",
                f"--config.evaluate.batch_size={batch}",
            ],
        )
        flops = picture_flops(config)
        total = pictures + 2  # with a test picture of each kind
        sides = {
            "extraction": _whole(config, total),
            "backbone alone": _backbone(config, pictures // batch),
            "pipeline alone": _pipeline(config),
        }
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        peaks_of_rounds = []
        for turn in range(rounds + 1):  # the first warms up
            for name, speed in sides.items():
                found = speed()
                if turn:
                    speeds[name].append(found)
            peaks_of_rounds.append(Peaks(peaks(dtype, 1).product, host_peaks(1).copy))
    peak = Peaks.median(peaks_of_rounds)
    rows: list[Row] = [{"name": name, **spread(values)} for name, values in speeds.items()]
    middle: dict[str, float] = {row["name"]: row["median"] for row in rows}
    bound = min(("backbone alone", "pipeline alone"), key=lambda name: middle[name])
    for row in rows:
        row["of_bound"] = row["median"] / middle[bound]
        reads = row["name"] == "pipeline alone"
        row["share"] = row["median"] * (3 * side**2 / peak.copy if reads else flops / peak.product)
        row["of"] = "copy" if reads else "product"
    return {
        "environment": environment(),
        "problem": f"{total} pictures to {side} x {side}, {backbone} {dtype}, batch {batch}, "
        f"{workers} workers, {rounds} rounds",
        "bound": bound.split()[0],
        "gflop_of_picture": flops / 1e9,
        **peak.numbers(),
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    columns = ("name", "median", "low", "high", "of_bound", "share", "of")
    return "\n".join(
        [
            report["environment"],
            report["problem"],
            f"a picture: {report['gflop_of_picture']:.3g} GFLOP in products; {peaks_line(report)}",
            f"pictures/s; bound by the {report['bound']}",
            *text_table(report["rows"], columns),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--side", type=int, default=224, help="of the squares, in pixels")
    parser.add_argument("--backbone", default="resnet18", help="one with pretrained weights")
    parser.add_argument("--dtype", default="float32", help="of the backbone's products")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that read; 0: threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    report = measure(
        positive("--pictures", args.pictures),
        positive("--side", args.side),
        args.backbone,
        args.dtype,
        positive("--batch", args.batch),
        args.workers,
        positive("--rounds", args.rounds),
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("extract", main)
