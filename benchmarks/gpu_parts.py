"""What `benchmarks.gpu` measures, each part in a process of its own, which it starts.

A part writes a line of JSON for every number as soon as it has it: `what` it is of, `value` and
`unit`, or `error`, or `skipped` and why. What it wrote stays when it then dies or runs too long.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import attention_pool, sweep, whole_training
from benchmarks.common import environment, in_turns, peaks, send_speed, spread, step_flops
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.sampler import Sampler
from dedn_jax.errors import one_line
from dedn_jax.interop.problem import random_problem
from dedn_jax.interop.published_model import PublishedModel, Recipe
from dedn_jax.interop.reference import load_reference
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.groups import published_attributes, resolve_groups
from dedn_jax.model.picture_model import backbone_maps
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import Executor, JitExecutor, ResidentExecutor, metrics_at
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import make_resident
from dedn_jax.training.network import make_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import TrainStep, init_state, make_train_step

# Precision of the products, and dtype of the features.
MODES = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "tensorfloat32": ("tensorfloat32", "float32"),
    "float32": ("float32", "float32"),
}
REGIONS = {"cub": 196, "sun": 196, "awa2": 49}
_NAMES = ("cub", "awa2", "sun")  # the most wanted first
# How often an optimiser step reads or writes a parameter: forward, backward, its gradient twice,
# both moments twice, itself once more.
_PASSES_OF_PARAMETERS = 9
_FEW_EPOCHS = 4
_OF_TRAINING = {
    "total_s": ("total", "s"),
    "load_s": ("load", "s"),
    "load_gb_per_s": ("load speed", "GB/s"),
    "first_call_s": ("first call", "s"),
    "steps_per_s": ("steps", "steps/s"),
    "evaluation_s": ("evaluations", "s"),
    "peak_device_gb": ("peak device memory", "GB"),
}


class Part:
    """Where a part's rows go, and how long it may take.

    Args:
      rows: file to add lines to.
      seconds: after which nothing new is begun.
      smoke: sizes that a CPU does in seconds.
      reference_dir: a checkout of the published code, or None.
    """

    def __init__(self, rows: Path, seconds: float, smoke: bool, reference_dir: Path | None) -> None:
        self.smoke, self.reference_dir = smoke, reference_dir
        self._rows, self._end = rows, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def add(self, what: str, **row: Any) -> None:
        with self._rows.open("a") as file:
            file.write(json.dumps({"what": what, **row}) + "\n")

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """An error inside becomes a row."""
        try:
            yield
        except Exception as error:  # whatever it is, what comes after still runs
            self.add(what, error=f"{type(error).__name__}: {one_line(error)}"[:300])

    def attempt(self, what: str, function: Callable[..., Any], *args: Any) -> None:
        """Calls the function if there is time; an error becomes a row."""
        if self.left <= 0:
            self.add(what, skipped="no time left")
            return
        with self.guarded(what):
            function(*args)


def machine(part: Part) -> None:
    """What the machine is, and what it can do at most."""
    device = jax.devices()[0]
    part.add(
        "machine",
        platform=device.platform,
        note=f"{environment()}, jaxlib {version('jaxlib')}, driver {_driver()}",
    )
    rounds, size, copied = (2, 64, 2**12) if part.smoke else (10, None, None)

    def peak(mode: str) -> None:
        precision, dtype = MODES[mode]
        with jax.default_matmul_precision(precision):
            flops, read = peaks(dtype, rounds, size, copied)
        part.add(f"{mode} product", value=flops / 1e12, unit="TFLOP/s", peak=mode)
        if mode == "float32":
            part.add("copy on the device", value=read / 1e9, unit="GB/s", peak="copy")

    def send() -> None:
        speed = send_speed(rounds, 2**16 if part.smoke else 2**28)
        part.add("copy to the device", value=speed / 1e9, unit="GB/s", peak="send")

    for mode in MODES:
        part.attempt(f"{mode} product", peak, mode)
    part.attempt("copy to the device", send)


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return found.stdout.strip().replace("\n", ", ") or "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _dataset(part: Part, name: str, dtype: str, channels: int = 2048) -> GZSLDataset:
    recipe = f"{name}_gzsl"
    attributes = published_attributes(load_config(recipe).data.groups)
    if part.smoke:
        return whole_training.made_up_dataset(recipe, attributes, 64, 16, 9, dtype)
    return whole_training.made_up_dataset(recipe, attributes, None, channels, REGIONS[name], dtype)


def train_steps(part: Part, kernel: str) -> None:
    """Steps of all data sets and types; batches looked up on the device, or sent to it."""
    for name in ("awa2",) if part.smoke else _NAMES:
        for mode in ("bfloat16",) if part.smoke else MODES:
            what = f"{name} {mode} {kernel}"
            part.attempt(what, _train_steps, part, kernel, name, mode)


def _train_steps(part: Part, kernel: str, name: str, mode: str) -> None:
    precision, dtype = MODES[mode]
    flags = [f"model.precision={precision}", f"model.kernel={kernel}"]
    flags += ["data.groups=single"] if part.smoke else []
    config = load_config(f"{name}_gzsl", [f"--config.{flag}" for flag in flags])
    dataset = _dataset(part, name, dtype)
    for way in ("resident", "streamed"):
        what = f"{name} {mode} {kernel} {way}"
        part.attempt(what, _steps, part, what, config, dataset, mode, way == "resident")


def _steps(
    part: Part, what: str, config: Any, dataset: GZSLDataset, mode: str, resident: bool
) -> None:
    batch, most = (4, 2) if part.smoke else (config.train.batch_size, config.train.steps_per_call)
    rounds = 2 if part.smoke else 10
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network, layout = make_network(config, dataset, groups), Layout.of_devices(jax.devices()[:1])
    optimizer = make_optimizer(config)
    seen = np.isin(np.arange(dataset.num_classes), dataset.seen_classes)

    def make_step(axes: Axes) -> TrainStep:
        return make_train_step(network.definition, Objective.from_config(config), optimizer, axes)

    maps = dataset.inputs[np.arange(min(256, len(dataset.trainval)))]
    # As many images to draw from as there are, but all of them are among a few.
    labels = dataset.labels[dataset.trainval]
    images = np.arange(len(labels)) % len(maps)
    sampler = Sampler(images, labels, batch, config.train.balanced, config.seed, stream=0)
    batch = sampler.size
    batches = [(maps[drawn], labels[:batch]) for drawn in map(sampler, range(4))]
    with jax.default_matmul_precision(config.model.precision):
        classes = make_class_space(dataset.class_embeddings, seen, groups)
        fixed = make_step, layout, (classes, network.frozen)
        executor: Executor
        if resident:
            table = make_resident(InMemoryFeatures(maps), layout, shard=False)
            executor = ResidentExecutor(*fixed, ResidentBatches(table, sampler, most))
        else:
            executor = JitExecutor(*fixed, itertools.cycle(batches), batch)
        most = executor.max_steps
        state = executor.place(init_state(network.params, optimizer))
        leaves = jax.tree.leaves(network.params)
        parameters = sum(x.size for x in leaves)
        start = time.perf_counter()
        state, terms = executor.run(state, most)
        first = metrics_at(terms, 0)["loss"]
        compiled = time.perf_counter() - start
        calls = 1 if part.smoke else (2 if resident else 20)
        times = []
        for turn in range(rounds + 1):  # the first warms up
            start = time.perf_counter()
            for _ in range(calls):
                state, terms = executor.run(state, most)
            jax.block_until_ready(terms)
            if turn:
                times.append(1e3 * (time.perf_counter() - start) / (calls * most))
    found = spread(times)
    shape = maps.shape[1:]
    part.add(
        what,
        value=found["median"],
        unit="ms",
        low=found["low"],
        high=found["high"],
        size=what.split()[0],
        mode=mode,
        flops=step_flops(
            batch, dataset.num_attributes, shape[0], shape[1], whole_training.WORD_DIM
        ),
        bytes=2.0 * batch * maps[0].nbytes + 4.0 * _PASSES_OF_PARAMETERS * parameters,
        first_call_s=compiled,
        first_loss=first,
        last_loss=metrics_at(terms, most - 1)["loss"],
    )


def training(part: Part) -> None:
    """CUB from features in memory to accuracies, bfloat16, kept on the device."""
    dataset = _dataset(part, "cub", "bfloat16")
    epochs = 1 if part.smoke else _FEW_EPOCHS
    needed = _training(part, dataset, epochs)
    if part.smoke:
        return
    if needed > part.left:
        part.add("cub, 80 epochs", skipped=f"it would take about {needed:.0f} s")
        return
    _training(part, dataset, 80)


def _training(part: Part, dataset: GZSLDataset, epochs: int) -> float:
    """Adds rows; an estimate of what 80 epochs take, in seconds."""
    batch = 10 if part.smoke else 50
    report = whole_training.measure("cub_gzsl", ["test-best"], dataset, epochs, batch)
    (row,) = report["rows"]
    note = f"{row['steps']} steps"
    for name, (label, unit) in _OF_TRAINING.items():
        if row[name] is not None:
            share = {"share": row["share"]} if name == "steps_per_s" else {}
            what = f"cub, {epochs} epochs, {label}"
            part.add(what, value=row[name], unit=unit, note=note, **share)
    fixed = row["load_s"] + row["first_call_s"]
    return fixed + (row["total_s"] - fixed) * 80 / epochs


def many_seeds(part: Part) -> None:
    """`benchmarks.sweep`: 16 models of CUB in one program, bfloat16, beside one."""
    for kernel in ("xla",) if part.smoke else ("xla", "pallas"):
        part.attempt(f"cub bfloat16 {kernel} seeds", _many_seeds, part, kernel)


def _many_seeds(part: Part, kernel: str) -> None:
    flags = ["data.on_device=replicated", "model.precision=bfloat16", f"model.kernel={kernel}"]
    if part.smoke:
        flags += ["train.batch_size=10", "train.steps_per_call=2", "data.groups=single"]
    config = load_config("cub_gzsl", [f"--config.{flag}" for flag in flags])
    dataset = _dataset(part, "cub", "bfloat16")
    report = sweep.measure(config, dataset, [1, 2 if part.smoke else 16], 2 if part.smoke else 5)
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


def published(part: Part) -> None:
    """The step of the published PyTorch code, its copy of the batch to the device included."""
    if part.reference_dir is None:
        part.add("published step", skipped="no --reference-dir")
        return
    try:
        import torch
    except ImportError:
        part.add("published step", skipped="torch is not installed")
        return
    if not (torch.cuda.is_available() or part.smoke):
        part.add("published step", skipped=f"torch {torch.__version__} finds no CUDA device")
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("awa2",) if part.smoke else _NAMES:
        for tf32 in (False, True):
            what = f"{name} published, {'tensorfloat32' if tf32 else 'float32'} streamed"
            part.attempt(what, _published_steps, part, what, name, device, tf32)


def _published_steps(part: Part, what: str, name: str, device: str, tf32: bool) -> None:
    import torch

    assert part.reference_dir is not None
    torch.backends.cuda.matmul.allow_tf32 = tf32
    config = load_config(f"{name}_gzsl", ["--config.train.batch_size=4"] if part.smoke else [])
    channels, side = (16, 3) if part.smoke else (2048, round(REGIONS[name] ** 0.5))
    problem = random_problem(config, channels=channels, side=side, batches=4, classes=None)
    reference = load_reference(part.reference_dir, name)
    model = PublishedModel.build(
        reference,
        Recipe.from_config(config, reference),
        word_vectors=problem.word_vectors,
        class_embeddings=problem.class_embeddings,
        seen=np.flatnonzero(problem.seen),
        unseen=np.flatnonzero(~problem.seen),
        channels=channels,
        side=side,
        device=device,
    )
    model.make_optimizer()
    times, steps = [], 2 if part.smoke else 10
    for turn in range(3 if part.smoke else 11):  # the first warms up
        start = time.perf_counter()
        for i in range(steps):
            loss = model.step(*problem.batches[i % 4])
        loss.item()  # waits
        if turn:
            times.append(1e3 * (time.perf_counter() - start) / steps)
    found = spread(times)
    low, high = found["low"], found["high"]
    note = f"torch {torch.__version__} on {device}"
    row = {"low": low, "high": high, "note": note, "size": name, "published": not tf32}
    part.add(what, value=found["median"], unit="ms", **row)


def pooling(part: Part) -> None:
    """`benchmarks.attention_pool`, a size and type at a time."""
    shape = (2, 16, 9) if part.smoke else (50, 2048, 196)
    rounds = 2 if part.smoke else 8
    for size in ("awa2",) if part.smoke else _NAMES:
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
    """Pictures a second of a backbone, from uint8 pictures that are on the device."""
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
        times = in_turns({"maps": lambda: compute(values, pictures)}, 2 if part.smoke else 8)
    part.add(what, value=batch / median([*times.values()]), unit="pictures/s")


# By name: what runs, and the most seconds it may take.
PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    "machine": (machine, 45),
    "steps, xla": (lambda part: train_steps(part, "xla"), 80),
    "steps, pallas": (lambda part: train_steps(part, "pallas"), 80),
    "training": (training, 110),
    "published": (published, 50),
    "sweep": (many_seeds, 55),
    "pooling": (pooling, 60),  # tells which kernel `auto` should be
    "extraction": (extraction, 60),
}


def main(argv: list[str] | None = None) -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--reference-dir", type=Path)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args(argv)
    part = Part(args.rows, args.seconds, args.smoke, args.reference_dir)
    with part.guarded(args.part):
        PARTS[args.part][0](part)


if __name__ == "__main__":
    main()
