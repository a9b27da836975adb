"""One point of a sweep: its models trained in one program, and its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.files import write_json
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.processes import barrier, is_main, max_over_processes
from dedn_jax.sweep.layout import stack
from dedn_jax.sweep.points import Point
from dedn_jax.sweep.report import summaries
from dedn_jax.sweep.result_file import read_point
from dedn_jax.sweep.trainer import ModelsResult, ModelsTrainer
from dedn_jax.training.interrupt import StopRequest, ending_the_run, stopped_run
from dedn_jax.training.logs import METRICS_FILE, last_step_seconds
from dedn_jax.training.network import Network, make_network
from dedn_jax.training.phase import STREAMS
from dedn_jax.training.phases import SELECTED_BY, Phases, run_phases
from dedn_jax.training.trainer import Tested


class Common(NamedTuple):
    """What all points share.

    Attributes:
      dataset: to train and test on.
      seeds: of the models.
      stop: polled before every point; the trainers poll it while training and evaluating.
      make_trainer: makes a `ModelsTrainer` of what a point has of its own.
    """

    dataset: GZSLDataset
    seeds: list[int]
    stop: StopRequest
    make_trainer: Callable[..., ModelsTrainer]


def run_point(
    point: Point, number: int, points: int, folder: Path, common: Common
) -> dict[str, object]:
    """The result of point `number`, from 0, of so many; trained unless it was finished before.

    Raises:
      Interrupted: `common.stop` asked for it; everything is saved.
    """
    file = folder / "result.json"
    if file.exists():
        return read_point(file)
    if points > 1 and is_main():
        print(f"point {number + 1} of {points}: {point}", file=sys.stderr)
    if signal := max_over_processes(common.stop.signal_number):
        raise stopped_run(signal, f"before point {number + 1} of {points}")
    where = f" of point {number + 1}/{points}" if points > 1 else ""
    with jax.default_matmul_precision(point.config.model.precision):
        result = _train(point, where, folder, common)
    if is_main():
        write_json(file, result)
    barrier(f"point {number} is finished")
    return result


def _train(point: Point, where: str, folder: Path, common: Common) -> dict[str, object]:
    config, dataset = point.config, common.dataset
    groups = groups_of(config, dataset)
    network, *others = (_network(config, seed, dataset, groups) for seed in common.seeds)
    trainer = common.make_trainer(
        config=config,
        network=network,
        groups=groups,
        folder=folder,
        where=where,
        seconds_before=_seconds_of_others(folder),
    )
    params = stack([n.params for n in (network, *others)])
    phases = run_phases(trainer, dataset, dict.fromkeys(STREAMS, params))
    with ending_the_run("in the evaluation on the test sets"):
        tested = trainer.test(trainval_task(dataset), phases.final.params, phases.calibrations)
    return _result(point, phases, tested, ~trainer.diverged)


def _result(
    point: Point, phases: Phases, tested: Sequence[Tested | None], remaining: np.ndarray
) -> dict[str, object]:
    selection = point.config.selection
    validation, final = phases.validation, phases.final
    assert isinstance(final, ModelsResult)
    metrics = [one and one.fixed for one in tested]
    diverged_at = final.diverged_at
    result: dict[str, object] = {"fields": point.fields, "protocol": selection.protocol}
    if point.name:
        result["name"] = point.name
    if isinstance(validation, ModelsResult):
        pairs = zip(validation.diverged_at, final.diverged_at, strict=True)
        diverged_at = [a or b for a, b in pairs]
        selected = _validation(validation)
        measured = [one if "fused" in one else None for one in selected]
        result |= {
            "refit": selection.refit,
            "validation": selected,
            "validation_fused": summaries(measured),
        }
    if phases.calibrations is not None:
        calibrated = [one and one.calibrated for one in tested]
        chosen = [one.metrics if one else None for one in phases.calibrations]
        result |= {
            "validation_fused_calibrated": summaries(chosen),
            "calibration": [one and one.to_json() for one in phases.calibrations],
            "fused_calibrated": summaries(calibrated),
            "test_calibrated": calibrated,
        }
    if selection.protocol == "test-best":
        result["test_best_t1"] = _of(remaining, final.best_t1)
    return result | {
        "selected_by": SELECTED_BY[selection.protocol],
        "steps": final.steps,
        "diverged_at": diverged_at,
        "selected_step": _of(remaining, final.selected_step),
        "fused": summaries(metrics),
        "test": metrics,
    }


def _seconds_of_others(point: Path) -> float:
    """What the steps of the points beside that one have taken."""
    files = point.parent.glob(f"*/{METRICS_FILE}")
    return sum(last_step_seconds(file) for file in files if file.parent != point)


def groups_of(config: ConfigDict, dataset: GZSLDataset) -> AttributeGroups:
    """The attribute groups of a point's models; raises InputError where they do not fit."""
    return resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)


def _network(
    config: ConfigDict, seed: int, dataset: GZSLDataset, groups: AttributeGroups
) -> Network:
    own = ConfigDict(config.to_dict())
    own.seed = seed
    return make_network(own, dataset, groups)


def _validation(result: ModelsResult) -> list[dict[str, Any]]:
    """For every model what it was selected by, or where it diverged."""
    return [
        {"steps": steps, "diverged_at": at}
        if at is not None
        else {"selected_step": step, "steps": steps, **(metrics or {})}
        for steps, at, step, metrics in zip(
            result.steps,
            result.diverged_at,
            result.selected_step,
            result.selected_metrics,
            strict=True,
        )
    ]


def _of(remaining: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """The values of the remaining models; None in place of the others'."""
    return [value if r else None for value, r in zip(values, remaining, strict=True)]
