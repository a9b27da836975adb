"""The train step over more and more devices: same numbers, same traffic, and what it costs to try.

  python -m benchmarks.scaling [--devices=1,2,4,8] [--processes=1,2,4] [--rows=8] [--channels=64]
      [--regions=49] [--steps=20] [--json=OUT]

Devices are simulated by XLA on this machine's CPU, in a process of their own for every count;
processes are real ones that talk over localhost, with a device each. Weak: `--rows` images for
every device. Strong: as many images as the largest count has, cut among all. Losses are compared
with one device's on the same batches, over all steps, relative. Bytes are of the whole arrays that
the compiled step's collectives reduce. Time says nothing on real scaling: all devices share the
same cores, so that it is the same work, and more of it is overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from benchmarks.common import Row, environment, spread, text_table
from benchmarks.whole_training import made_up_dataset
from dedn_jax import distributed
from dedn_jax.axes import Axes
from dedn_jax.config import load_config
from dedn_jax.distributed import Layout
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.groups import resolve_groups
from dedn_jax.network import make_network
from dedn_jax.optimizer import make_optimizer
from dedn_jax.plan.hlo import read_program
from dedn_jax.step import Objective, TrainStep, init_state, make_class_space, make_train_step
from dedn_jax.strategy import JitStrategy, terms_of

_COLUMNS = (
    *("kind", "scaling", "parts", "batch", "difference", "collectives", "collective_mb"),
    *("step_ms", "low", "high"),
)
_TIMEOUT = 300


def work(batch: int, channels: int, regions: int, steps: int) -> Row:
    """Steps on all devices of all processes: losses, times, and what the program sends."""
    config = load_config("awa2_gzsl", [f"--config.train.batch_size={batch}"])
    dataset = made_up_dataset("awa2_gzsl", 85, 256, channels, regions, "float32")
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network, layout = make_network(config, dataset, groups), Layout.of_devices()
    optimizer = make_optimizer(config)
    seen = np.isin(np.arange(dataset.num_classes), dataset.seen_classes)

    def make_step(axes: Axes) -> TrainStep:
        return make_train_step(network.definition, Objective.from_config(config), optimizer, axes)

    losses, times = [], []
    with jax.default_matmul_precision(config.model.precision):
        classes = make_class_space(dataset.class_embeddings, seen, groups)
        rng = np.random.default_rng(0)
        drawn = [rng.choice(dataset.trainval, batch) for _ in range(steps)]
        parts = [images[layout.shard.part(batch)] for images in drawn]
        pairs = [(dataset.inputs[i], dataset.labels[i]) for i in parts]
        # The program that the steps below run.
        strategy = JitStrategy(make_step, layout, classes, network.frozen, iter(pairs), batch)
        state = strategy.place(layout.replicate(init_state(network.params, optimizer)))
        lowered = strategy._run.lower(state, layout.batch(*pairs[0], batch), strategy._fixed)
        program = read_program(lowered.compile().as_text() or "", layout.parts)
        for _ in pairs:
            start = time.perf_counter()
            state, terms = strategy.run(state, 1)
            losses.append(terms_of(terms, 0)["loss"])
            times.append(1e3 * (time.perf_counter() - start))
    found = spread(times[1:] or times)  # the first compiles
    return {
        "losses": losses,
        "collectives": sum(t.runs for t in program.traffic.values()),
        "collective_mb": sum(t.bytes for t in program.traffic.values()) / 1e6,
        "step_ms": found["median"],
        "low": found["low"],
        "high": found["high"],
    }


def _start(arguments: list[str], devices: int, folder: Path, name: str) -> subprocess.Popen:
    count = f"--xla_force_host_platform_device_count={devices}"
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", *arguments],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count},
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _run(kind: str, parts: int, job: list[str]) -> Row:
    """`work` in `parts` devices or processes.

    Raises:
      InputError: it failed; names the last line of its output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments = [*job, f"--worker={folder / 'result.json'}"]
        if kind == "devices" or parts == 1:
            started = [_start(arguments, parts, folder, "0")]
        else:
            with socket.socket() as s:
                s.bind(("localhost", 0))
                port = s.getsockname()[1]
            arguments += [f"--join=localhost:{port},{parts}"]
            started = [
                _start([*arguments, f"--process={i}"], 1, folder, str(i)) for i in range(parts)
            ]
        try:
            for i, process in enumerate(started):
                if process.wait(_TIMEOUT):
                    lines = (folder / f"{i}.log").read_text().strip().splitlines() or ["no output"]
                    raise InputError(f"{parts} {kind}: a process failed: {lines[-1]}")
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{parts} {kind}: not done after {_TIMEOUT} s") from error
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        result: Row = json.loads((folder / "result.json").read_text())
        return result


def measure(
    counts: dict[str, list[int]], rows: int, channels: int, regions: int, steps: int
) -> dict[str, Any]:
    """A row for every kind, count and scaling.

    Args:
      counts: of `devices` and of `processes`.
      rows: images of a device, weak.
      channels, regions: of the feature maps.
      steps: that are compared and timed.
    """
    fixed = [f"--channels={channels}", f"--regions={regions}", f"--steps={steps}"]
    alone: dict[int, Row] = {}  # one device, by batch
    done: dict[tuple[str, int, int], Row] = {}

    def run(kind: str, parts: int, batch: int) -> Row:
        if parts == 1 and batch in alone:
            return alone[batch]
        key = kind, parts, batch
        if key not in done:
            done[key] = _run(kind, parts, [*fixed, f"--rows={batch}"])
        if parts == 1:
            alone[batch] = done[key]
        return done[key]

    table = []
    for kind, numbers in counts.items():
        for scaling in ("weak", "strong"):
            for parts in numbers:
                batch = rows * (parts if scaling == "weak" else max(numbers))
                found = run(kind, parts, batch)
                base = np.asarray(run(kind, 1, batch)["losses"])
                difference = np.abs(np.asarray(found["losses"]) - base) / np.abs(base)
                table.append(
                    {
                        "kind": kind,
                        "scaling": scaling,
                        "parts": parts,
                        "batch": batch,
                        "difference": float(difference.max()),
                        **{k: v for k, v in found.items() if k != "losses"},
                        "last_loss": found["losses"][-1],
                    }
                )
    return {
        "environment": environment(),
        "problem": f"awa2_gzsl, features [{channels}, {regions}] float32, {steps} steps",
        "rows": table,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    return "\n".join(
        [
            report["environment"],
            report["problem"],
            "all parts share the same cores: times are of overhead, not of scaling",
            *text_table(report["rows"], _COLUMNS),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints; or, as one that was started to, works."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default="1,2,4,8", help="simulated, comma-separated")
    parser.add_argument("--processes", default="1,2,4", help="on localhost, comma-separated")
    parser.add_argument("--rows", type=int, default=8, help="images of a device")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--regions", type=int, default=49)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    for internal in ("--worker", "--join", "--process"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    rows, steps = positive("--rows", args.rows), positive("--steps", args.steps)
    channels, regions = (
        positive("--channels", args.channels),
        positive("--regions", args.regions),
    )
    if args.worker:
        if args.join:
            address, count = args.join.split(",")
            distributed.initialize(address, int(count), int(args.process))
        result = work(rows, channels, regions, steps)
        if distributed.is_main():
            write_json(Path(args.worker), result)
        distributed.barrier("done")
        return
    counts = {
        "devices": [positive("--devices", n) for n in integers("--devices", args.devices)],
        "processes": [positive("--processes", n) for n in integers("--processes", args.processes)],
    }
    report = measure(counts, rows, channels, regions, steps)
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("scaling", main)
