"""Cost of a step of many models in one program, as `dedn sweep` runs it.

  python -m benchmarks.sweep [--recipe=cub_gzsl] [--seeds=1,4,16] [--images=256] [--channels=128]
      [--regions=49] [--batch=50] [--steps=2] [--dtype=float32] [--precision=float32]
      [--kernel=auto] [--rounds=5] [--json=OUT]

CUB at its published size, on a GPU:

  python -m benchmarks.sweep --images=11788 --channels=2048 --regions=196 --steps=32
      --dtype=bfloat16 --precision=bfloat16

Feature maps are made up and stay on the device, once for all models; `--steps` of them run in a
call. All take turns. `per_model_ms` is a step's time by its models; `times_one` is the step's time
by that of one model in `dedn train`, and `separate_ms` the time of as many such steps, of a model
each. `share` is of the matrix product's peak, with the products of all models counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from benchmarks.common import (
    Call,
    Row,
    environment,
    interleaved,
    peaks,
    peaks_line,
    spread,
    step_flops,
    text_table,
)
from benchmarks.whole_training import made_up_dataset
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.data.sampler import Sampler
from dedn_jax.model.groups import published_attributes, resolve_groups
from dedn_jax.parallel.axes import Axes
from dedn_jax.parallel.executors import ResidentExecutor
from dedn_jax.parallel.mesh import local_layout
from dedn_jax.parallel.resident.batches import ResidentBatches
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.sweep.executor import ModelsExecutor, init_states
from dedn_jax.sweep.layout import ModelLayout, stack
from dedn_jax.training.network import Network, make_network
from dedn_jax.training.objective import Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.phase import STREAMS
from dedn_jax.training.step import TrainState, TrainStep, init_state, make_train_step

_COLUMNS = (
    *("seeds", "step_ms", "low", "high", "per_model_ms", "times_one", "separate_ms", "share"),
)


class Training:
    """Models in training by one program.

    Args:
      run: runs the steps of a call: `state -> state`.
      state: before the first step.
    """

    def __init__(self, run: Callable[[TrainState], TrainState], state: Any) -> None:
        self._run = run
        self.state: TrainState = state

    def call(self) -> jax.Array:
        """Runs a call; returns an array that is ready once it is done."""
        self.state = self._run(self.state)
        return self.state.step


class Maker:
    """Makes models on one data set, whose feature maps are sent to the device once.

    Args:
      config: of all models, but for their seeds.
      dataset: to train on.

    Attributes:
      batch: images of a step.
    """

    def __init__(self, config: ConfigDict, dataset: GZSLDataset) -> None:
        self._config, self._dataset = config, dataset
        self._steps = config.train.steps_per_call
        self._groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
        table = place_features(dataset.inputs, config, local_layout(), may_shard=False)
        assert table is not None  # the config says so
        task = trainval_task(dataset)
        labels = task.labels[task.train]
        sampler = Sampler.from_config(task.train, labels, config, STREAMS["final"])
        self._resident, self.batch = ResidentBatches(table, sampler, self._steps), sampler.size
        self._classes = make_class_space(task.class_embeddings, task.seen, self._groups)

    def _network(self, seed: int) -> Network:
        own = ConfigDict(self._config.to_dict())
        own.seed = seed
        return make_network(own, self._dataset, self._groups)

    def together(self, models: int) -> Training:
        """That many models in one program, as `dedn sweep` trains them."""
        config, layout = self._config, ModelLayout.of_devices(models)
        networks = [self._network(seed) for seed in range(models)]
        network, optimizer = networks[0], make_optimizer(config)
        step = make_train_step(network.definition, Objective.from_config(config), optimizer)
        constants = self._classes, network.frozen
        ends = np.full(models, np.iinfo(np.int32).max)
        executor = ModelsExecutor(step, layout, constants, ends, self._resident, done=0)
        params = layout.place(stack([n.params for n in networks]))

        def run(state: TrainState) -> TrainState:
            return executor.run(state, self._steps)[0]

        return Training(run, init_states(params, optimizer, layout))

    def apart(self, models: int) -> list[Training]:
        """That many models one after the other, each as `dedn train` trains it."""
        networks, config = [self._network(seed) for seed in range(models)], self._config
        network, optimizer = networks[0], make_optimizer(config)

        def make_step(axes: Axes) -> TrainStep:
            return make_train_step(
                network.definition, Objective.from_config(config), optimizer, axes
            )

        executor = ResidentExecutor(
            make_step, local_layout(), (self._classes, network.frozen), self._resident
        )

        def run(state: TrainState) -> TrainState:
            return executor.run(state, self._steps)[0]

        states = [executor.place(init_state(n.params, optimizer)) for n in networks]
        return [Training(run, state) for state in states]


def measure(
    config: ConfigDict, dataset: GZSLDataset, seeds: Sequence[int], rounds: int
) -> dict[str, Any]:
    """A row for each number of seeds."""
    features, steps = dataset.features, config.train.steps_per_call
    with jax.default_matmul_precision(config.model.precision):
        peak = peaks(str(features.dtype), rounds)
        maker = Maker(config, dataset)
        together = {n: maker.together(n) for n in seeds}
        apart = maker.apart(max(seeds))

        def separate(models: int) -> Call:
            return lambda: [one.call() for one in apart[:models]]

        calls: dict[str, Call] = {f"{n} together": t.call for n, t in together.items()}
        calls |= {f"{n} apart": separate(n) for n in {1, *seeds}}
        times = {
            name: spread([1e3 * t / steps for t in seconds])
            for name, seconds in interleaved(calls, rounds).items()
        }
    flops = step_flops(maker.batch, dataset.num_attributes, features.channels, features.regions)
    one = times["1 apart"]["median"]
    rows: list[Row] = []
    for n in seeds:
        found = times[f"{n} together"]
        rows.append(
            {
                "seeds": n,
                "step_ms": found["median"],
                "low": found["low"],
                "high": found["high"],
                "per_model_ms": found["median"] / n,
                "times_one": found["median"] / one,
                "separate_ms": times[f"{n} apart"]["median"],
                "share": n * flops / (1e-3 * found["median"]) / peak.product,
            }
        )
    return {
        "environment": environment(),
        "problem": f"{len(features)} images [{features.channels}, {features.regions}] "
        f"{features.dtype}, {dataset.num_attributes} attributes, {dataset.num_classes} classes, "
        f"batch {maker.batch}, {steps} steps a call, products {config.model.precision}, "
        f"{rounds} rounds",
        "one_ms": one,
        "gflop_of_one": flops / 1e9,
        **peak.numbers(),
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    return "\n".join(
        [
            report["environment"],
            report["problem"],
            f"one model in `dedn train`: {report['gflop_of_one']:.3g} GFLOP and "
            f"{report['one_ms']:.3g} ms a step; {peaks_line(report)}",
            *text_table(report["rows"], _COLUMNS),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cub_gzsl", help="a published recipe")
    parser.add_argument("--seeds", default="1,4,16", help="how many models in a program")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--regions", type=int, default=49)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, default=2, help="in a call")
    parser.add_argument("--dtype", default="float32", help="of the features")
    parser.add_argument("--precision", default="float32", help="of matrix products")
    parser.add_argument("--kernel", default="auto", help="of attention pooling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    config = load_config(
        args.recipe,
        [
            "--config.data.on_device=replicated",
            f"--config.data.dtype={args.dtype}",
            f"--config.model.precision={args.precision}",
            f"--config.model.kernel={args.kernel}",
            f"--config.train.batch_size={args.batch}",
            f"--config.train.steps_per_call={args.steps}",
        ],
    )
    dataset = made_up_dataset(
        args.recipe,
        published_attributes(config.data.groups),
        args.images,
        positive("--channels", args.channels),
        positive("--regions", args.regions),
        args.dtype,
    )
    seeds = [positive("--seeds", n) for n in integers("--seeds", args.seeds)]
    report = measure(config, dataset, seeds, positive("--rounds", args.rounds))
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("sweep", main)
