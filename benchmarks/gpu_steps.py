"""Parts of `benchmarks.gpu`: our train step and the published one."""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax
import numpy as np

from benchmarks import whole_training
from benchmarks.common import spread, step_flops
from benchmarks.gpu_part import MODES, NAMES, REGIONS, Part, part_dataset
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.data.sampler import Sampler
from dedn_jax.interop.compare import build_published
from dedn_jax.interop.problem import random_problem
from dedn_jax.model.groups import resolve_groups
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import Executor, JitExecutor, ResidentExecutor, metrics_at
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.features import make_resident
from dedn_jax.training.network import make_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import TrainState, TrainStep, init_state, make_train_step

# Reads and writes of a parameter in a step: forward, backward, its gradient twice, both moments
# twice, the update.
_PASSES_OF_PARAMETERS = 9


def train_steps(part: Part, kernel: str) -> None:
    """Steps of all data sets and precisions, with resident features, then with streamed ones."""
    for way in ("resident", "streamed"):
        for mode in ("bfloat16",) if part.smoke else MODES:
            for name in ("awa2",) if part.smoke else NAMES:
                what = f"{name} {mode} {kernel} {way}"
                part.attempt(what, _train_steps, part, what, kernel, name, mode, way == "resident")


def _train_steps(part: Part, what: str, kernel: str, name: str, mode: str, resident: bool) -> None:
    config, dataset = problem_of(part, kernel, name, mode)
    _steps(part, what, config, dataset, mode, resident)


def problem_of(part: Part, kernel: str, name: str, mode: str) -> tuple[Any, GZSLDataset]:
    """A recipe's config with this kernel and mode, and its data set of random features."""
    precision, dtype = MODES[mode]
    flags = [f"model.precision={precision}", f"model.kernel={kernel}"]
    flags += ["data.groups=single"] if part.smoke else []
    config = load_config(f"{name}_gzsl", [f"--config.{flag}" for flag in flags])
    return config, part_dataset(part, name, dtype)


def _steps(
    part: Part, what: str, config: Any, dataset: GZSLDataset, mode: str, resident: bool
) -> None:
    rounds = 2 if part.smoke else 10
    calls = 1 if part.smoke else (2 if resident else 20)
    with jax.default_matmul_precision(config.model.precision):
        executor, state, batch = executor_of(part, config, dataset, resident)
        steps = executor.max_steps
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        start = time.perf_counter()
        state, terms = executor.run(state, steps)
        first_loss = metrics_at(terms, 0)["loss"]
        first_call = time.perf_counter() - start
        times = []
        for turn in range(rounds + 1):  # the first warms up
            start = time.perf_counter()
            for _ in range(calls):
                state, terms = executor.run(state, steps)
            jax.block_until_ready(terms)
            if turn:
                times.append(1e3 * (time.perf_counter() - start) / (calls * steps))
    found = spread(times)
    channels, regions = dataset.features.channels, dataset.features.regions
    part.add(
        what,
        value=found["median"],
        unit="ms",
        low=found["low"],
        high=found["high"],
        size=what.split()[0],
        mode=mode,
        flops=step_flops(batch, dataset.num_attributes, channels, regions, whole_training.WORD_DIM),
        bytes=2.0 * batch * dataset.inputs[np.arange(1)].nbytes
        + 4.0 * _PASSES_OF_PARAMETERS * parameters,
        first_call_s=first_call,
        first_loss=first_loss,
        last_loss=metrics_at(terms, steps - 1)["loss"],
    )


def executor_of(
    part: Part, config: Any, dataset: GZSLDataset, resident: bool
) -> tuple[Executor, TrainState, int]:
    """A training's executor, its first state on the device, and its batch size."""
    batch, most = (4, 2) if part.smoke else (config.train.batch_size, config.train.steps_per_call)
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network, layout = make_network(config, dataset, groups), Layout.of_devices(jax.devices()[:1])
    optimizer = make_optimizer(config)

    def make_step(axes: Axes) -> TrainStep:
        return make_train_step(network.definition, Objective.from_config(config), optimizer, axes)

    maps = dataset.inputs[np.arange(min(256, len(dataset.trainval)))]
    # The sampler draws from the full number of images, which share a few feature maps.
    labels = dataset.labels[dataset.trainval]
    images = np.arange(len(labels)) % len(maps)
    sampler = Sampler(images, labels, batch, config.train.balanced, config.seed, stream=0)
    classes = make_class_space(dataset.class_embeddings, dataset.seen, groups)
    fixed = make_step, layout, (classes, network.frozen)
    executor: Executor
    if resident:
        table = make_resident(InMemoryFeatures(maps), layout, shard=False)
        executor = ResidentExecutor(*fixed, ResidentBatches(table, sampler, most))
    else:
        batches = [(maps[drawn], labels[: sampler.size]) for drawn in map(sampler, range(4))]
        executor = JitExecutor(*fixed, itertools.cycle(batches), sampler.size)
    return executor, executor.place(init_state(network.params, optimizer)), sampler.size


def published(part: Part) -> None:
    """The step of the published PyTorch code, with its copy of the batch to the device."""
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
    for name in ("awa2",) if part.smoke else NAMES:
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
    model = build_published(part.reference_dir, config, problem, device)
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
