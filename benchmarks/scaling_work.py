"""What `benchmarks.scaling` starts: train steps on all devices of all processes, way by way.

python -m benchmarks.scaling_work --out=FILE --ways=jit,pmap,replicated,sharded --batch=N
    --channels=C --regions=R --steps=N [--join=HOST:PORT,PROCESSES --process=I]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.whole_training import made_up_dataset
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.sampler import Sampler
from dedn_jax.files import write_json
from dedn_jax.model.groups import resolve_groups
from dedn_jax.parallel import joining, processes
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import (
    Executor,
    JitExecutor,
    PmapExecutor,
    ResidentExecutor,
    metrics_at,
)
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import make_resident
from dedn_jax.plan.collectives import read_program
from dedn_jax.training.network import make_network
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import TrainStep, init_state, make_train_step

RECIPE, ATTRIBUTES = "awa2_gzsl", 85
_FEWEST_IMAGES = 256
WAYS = ("jit", "pmap", "replicated", "sharded")


def _executors(
    make_step: Callable[[Axes], TrainStep],
    layout: Layout,
    fixed: tuple[ClassSpace, nnx.State],
    dataset: GZSLDataset,
    sampler: Sampler,
    steps: int,
) -> Mapping[str, Callable[[], Executor]]:
    """A constructor for each way; all take the same batches, one step a call."""
    own = layout.host_shard.part(sampler.size)
    images = [sampler(step)[own] for step in range(steps)]
    batches = [(dataset.inputs[i], dataset.labels[i]) for i in images]

    def resident(shard: bool) -> Executor:
        table = make_resident(dataset.features, layout, shard=shard)
        return ResidentExecutor(make_step, layout, fixed, ResidentBatches(table, sampler, 1))

    return {
        "jit": lambda: JitExecutor(make_step, layout, fixed, iter(batches), sampler.size),
        "pmap": lambda: PmapExecutor(make_step, layout, fixed, iter(batches), sampler.size),
        "replicated": lambda: resident(shard=False),
        "sharded": lambda: resident(shard=layout.num_shards > 1),  # a device holds all
    }


def _capture_program(executor: Any) -> list[str]:
    """A list that gets the HLO text of the program once the executor compiles it."""
    run, texts = executor._run, []

    def first(*arguments: Any) -> Any:
        executor._run = run
        texts.append(run.lower(*arguments).compile().as_text() or "")
        return run(*arguments)

    executor._run = first
    return texts


def work(
    ways: list[str], batch: int, channels: int, regions: int, steps: int, groups: str
) -> dict[str, Any]:
    """For every way: losses, milliseconds of each step but the first, and its collectives."""
    config = load_config(RECIPE, [f"--config.data.groups={groups}"] if groups else [])
    # Two thirds of the images are for training; a batch has none twice.
    images = max(_FEWEST_IMAGES, 2 * batch)
    dataset = made_up_dataset(RECIPE, ATTRIBUTES, images, channels, regions, "float32")
    resolved = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network, layout = make_network(config, dataset, resolved), Layout.of_devices()
    optimizer = make_optimizer(config)

    def make_step(axes: Axes) -> TrainStep:
        return make_train_step(network.definition, Objective.from_config(config), optimizer, axes)

    # Not the recipe's batches, which have an equal number of images of each class.
    train = dataset.trainval
    sampler = Sampler(train, dataset.labels[train], batch, False, seed=0, stream=0)
    assert sampler.size == batch
    losses: dict[str, list[float]] = {way: [] for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    copies = functools.partial(jax.tree.map, jnp.copy)
    with jax.default_matmul_precision(config.model.precision):
        fixed = make_class_space(dataset.class_embeddings, dataset.seen, resolved), network.frozen
        makers = _executors(make_step, layout, fixed, dataset, sampler, steps)
        strategies = {way: makers[way]() for way in ways}
        texts = {way: _capture_program(executor) for way, executor in strategies.items()}
        # A step donates its state, so each way needs its own.
        states = {
            way: executor.place(layout.replicate(init_state(copies(network.params), optimizer)))
            for way, executor in strategies.items()
        }
        for _ in range(steps):
            for way, executor in strategies.items():
                start = time.perf_counter()
                states[way], terms = executor.run(states[way], 1)
                losses[way].append(metrics_at(terms, 0)["loss"])
                times[way].append(1e3 * (time.perf_counter() - start))
    programs = {way: read_program(texts[way][0], layout.num_shards) for way in ways}
    return {
        way: {
            "losses": losses[way],
            "times": times[way][1:] or times[way],  # the first compiles
            "collectives": sum(t.runs for t in program.traffic.values()),
            "collective_mb": sum(t.bytes for t in program.traffic.values()) / 1e6,
        }
        for way, program in programs.items()
    }


def main(argv: list[str] | None = None) -> None:
    """Runs, with other processes if `--join` names them; process 0 writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", required=True)
    for flag in ("--batch", "--channels", "--regions", "--steps"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--groups", default="")
    parser.add_argument("--join")
    parser.add_argument("--process", type=int, default=0)
    args = parser.parse_args(argv)
    if args.join:
        address, count = args.join.split(",")
        joining.initialize(address, int(count), args.process)
    ways = args.ways.split(",")
    result = work(ways, args.batch, args.channels, args.regions, args.steps, args.groups)
    if processes.is_main():
        write_json(args.out, result)
    processes.barrier("done")


if __name__ == "__main__":
    main()
