"""The parts of `benchmarks.gpu`, which starts a process for each.

A part writes a line of JSON for every number as soon as it has it: `what` it is of, `value` and
`unit`, or `error`, or `skipped` and why. What it wrote stays when it then dies or runs too long.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import attention_pool, sweep, whole_training
from benchmarks.common import interleaved_medians, peaks, send_speed, tiny_peaks
from benchmarks.gpu_kernels import step_kernels
from benchmarks.gpu_part import MODES, NAMES, Part, part_dataset
from benchmarks.gpu_steps import published, train_steps
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.picture_model import backbone_maps

_FEW_EPOCHS = 4
_OF_TRAINING = {
    "total_s": ("total", "s"),
    "load_s": ("load", "s"),
    "load_gb_per_s": ("load speed", "GB/s"),
    "first_call_s": ("first call", "s"),
    "steps_per_s": ("steps", "steps/s"),
    "evaluation_s": ("evaluations", "s"),
    "epoch_s": ("epoch with its evaluation", "s"),
    "peak_device_gb": ("peak device memory", "GB"),
}


def machine(part: Part) -> None:
    """The peaks of products and copies."""
    rounds = 2 if part.smoke else 10

    def peak(mode: str) -> None:
        precision, dtype = MODES[mode]
        with jax.default_matmul_precision(precision):
            flops, read = peaks(dtype, rounds)
        part.add(f"{mode} product", value=flops / 1e12, unit="TFLOP/s", peak=mode)
        if mode == "float32":
            part.add("copy on the device", value=read / 1e9, unit="GB/s", peak="copy")

    def send() -> None:
        speed = send_speed(rounds, 2**16 if part.smoke else 2**28)
        part.add("copy to the device", value=speed / 1e9, unit="GB/s", peak="send")

    for mode in MODES:
        part.attempt(f"{mode} product", peak, mode)
    part.attempt("copy to the device", send)


def training(part: Part) -> None:
    """CUB from features in memory to accuracies, bfloat16, resident on the device."""
    dataset = part_dataset(part, "cub", "bfloat16")
    epochs = 1 if part.smoke else _FEW_EPOCHS
    needed = _training(part, dataset, epochs)
    if part.smoke:
        return
    if needed > part.left:
        part.add("cub, 80 epochs", skipped=f"it would take about {needed:.0f} s")
        return
    _training(part, dataset, 80)


def _training(part: Part, dataset: GZSLDataset, epochs: int) -> float:
    """Adds the rows of a training; returns the estimated seconds of 80 epochs."""
    batch = 10 if part.smoke else 50
    report = whole_training.measure("cub_gzsl", ["test-best"], dataset, epochs, batch)
    (row,) = report["rows"]
    note = f"{row['steps']} steps"
    for name, (label, unit) in _OF_TRAINING.items():
        if row[name] is not None:
            share = {"share": row["share"]} if name == "steps_per_s" else {}
            what = f"cub, {epochs} epochs, {label}"
            part.add(what, value=row[name], unit=unit, note=note, **share)
    # What is compiled for the first epoch serves all.
    one = row["epoch_s"] or (row["total_s"] - row["first_call_s"]) / epochs
    return row["load_s"] + row["total_s"] + (80 - epochs) * one


def many_seeds(part: Part) -> None:
    """`benchmarks.sweep`: 16 models of CUB in one program, and one alone; bfloat16."""
    for kernel in ("xla",) if part.smoke else ("xla", "pallas"):
        part.attempt(f"cub bfloat16 {kernel} seeds", _many_seeds, part, kernel)


def _many_seeds(part: Part, kernel: str) -> None:
    flags = ["data.on_device=replicated", "model.precision=bfloat16", f"model.kernel={kernel}"]
    if part.smoke:
        flags += ["train.batch_size=10", "train.steps_per_call=2", "data.groups=single"]
    config = load_config("cub_gzsl", [f"--config.{flag}" for flag in flags])
    dataset = part_dataset(part, "cub", "bfloat16")
    seeds, rounds = ([2], 2) if part.smoke else ([1, 16], 5)
    report = sweep.measure(config, dataset, seeds, rounds)
    for row in report["rows"]:
        note = f"{row['times_one']:.2f} x one in `dedn train`, {100 * row['share']:.0f}% of peak"
        part.add(
            f"cub bfloat16 {kernel} seeds {row['seeds']}",
            value=row["step_ms"],
            unit="ms",
            low=row["low"],
            high=row["high"],
            note=note,
        )


def pooling(part: Part) -> None:
    """`benchmarks.attention_pool`, a size and type at a time."""
    shape = (2, 16, 9) if part.smoke else (50, 2048, 196)
    rounds = 2 if part.smoke else 8
    for size in ("awa2",) if part.smoke else NAMES:
        for dtype in ("bfloat16", "float32"):
            what = f"{size} {dtype} [{shape[1]}, {shape[2]}]"
            part.attempt(what, _pooling, part, size, dtype, shape, rounds)


def _pooling(part: Part, size: str, dtype: str, shape: tuple[int, int, int], rounds: int) -> None:
    report = attention_pool.measure([size], [dtype], "default", *shape, rounds)
    for row in report["rows"]:
        share = max(row["flop_share"], row["byte_share"])
        note = f"{row['tflop_per_s']:.3g} TFLOP/s, {row['gb_per_s']:.0f} GB/s"
        if "difference" in row:
            note += f", {row['speedup']:.2f} x XLA, differs by {row['difference']:.1e}"
        what = f"{size} {dtype} {row['branch']} {row['pass']} {row['kernel']}"
        part.add(what, value=row["median_ms"], unit="ms", share=share, note=note)


def extraction(part: Part) -> None:
    """Pictures per second of a backbone, from uint8 pictures on the device."""
    name, side, batches = ("resnet18", 64, (2,)) if part.smoke else ("resnet101", 448, (100, 32))
    for batch in batches:
        for dtype in ("bfloat16",) if part.smoke else MODES:
            what = f"{name} {side} x {side} {dtype}, batch {batch}"
            part.attempt(what, _extraction, part, what, name, side, batch, dtype)


def _extraction(part: Part, what: str, name: str, side: int, batch: int, dtype: str) -> None:
    kind = "float32" if dtype == "tensorfloat32" else dtype
    definition, values = nnx.split(make_backbone(name, kind, nnx.Rngs(params=0)))
    rng = np.random.default_rng(0)
    pictures = jnp.asarray(rng.integers(0, 256, (batch, side, side, 3), np.uint8))

    @jax.jit
    def compute(values: nnx.State, images: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), images)

    with jax.default_matmul_precision(dtype):
        times = interleaved_medians(
            {"maps": lambda: compute(values, pictures)}, 2 if part.smoke else 8
        )
    part.add(what, value=batch / median([*times.values()]), unit="pictures/s")


# By name: the function, and its weight in the sharing of the time; about its seconds.
PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    "machine": (machine, 45),
    "steps-xla": (lambda part: train_steps(part, "xla"), 80),
    "steps-pallas": (lambda part: train_steps(part, "pallas"), 80),
    "kernels": (step_kernels, 60),
    "training": (training, 110),
    "published": (published, 50),
    "sweep": (many_seeds, 55),
    "pooling": (pooling, 60),  # tells which kernel `auto` should be
    "extraction": (extraction, 60),
}


def main(argv: list[str] | None = None) -> None:
    """Runs parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of each")
    parser.add_argument("--reference-dir", type=Path)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args(argv)
    with tiny_peaks() if args.smoke else contextlib.nullcontext():
        for name in args.parts:
            part = Part(name, args.rows, args.seconds, args.smoke, args.reference_dir)
            with part.guarded(name):
                PARTS[name][0](part)


if __name__ == "__main__":
    main()
