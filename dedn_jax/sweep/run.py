"""A sweep from a config to its result: `S` models in one program, for every point of a grid."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.config import check_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError, check_count, check_type
from dedn_jax.files import write_json
from dedn_jax.parallel.agreement import check_agreement
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import is_main
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.sweep.folder import SweepFolder
from dedn_jax.sweep.layout import ModelLayout
from dedn_jax.sweep.point import Common, groups_of, run_point
from dedn_jax.sweep.points import Grid, Point, make_points
from dedn_jax.sweep.points_file import read_points
from dedn_jax.sweep.report import SHARED, draw
from dedn_jax.sweep.result_file import read_sweep_result
from dedn_jax.sweep.trainer import ModelsTrainer
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.training.environment import record_start
from dedn_jax.training.given import check_place, config_with
from dedn_jax.training.interrupt import StopRequest
from dedn_jax.training.phases import check_protocol
from dedn_jax.training.teacher import Teacher
from dedn_jax.training.teacher_run import load_teacher
from dedn_jax.training.workdir import Workdir, agreed_fields


def run_sweep(
    config: ConfigDict,
    workdir: str | Path,
    seeds: int,
    grid: Grid = (),
    *,
    dataset: GZSLDataset | None = None,
    points_file: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Runs or resumes a sweep.

    Model i has the initial parameters of `dedn train` with `config.seed` + i. Batches and the
    validation split are those of `config.seed`, so that every image is read once for all models;
    the first model is therefore that of `dedn train`. Protocols as in
    `dedn_jax.training.protocol.train`, every model with its own selection and its own number of
    final steps.

    A model that diverges in a phase (`dedn_jax.sweep.step_metrics`) takes no further part in its
    point, and has None in place of results.

    Examples:
      >>> result = run_sweep(config, "runs/two", 2, {"loss.margin": [0.5, 2.0]}, dataset=dataset)
      >>> [point["fields"] for point in result["points"]]
      [{'loss.margin': 0.5}, {'loss.margin': 2.0}]
      >>> [len(point["test"]) for point in result["points"]]
      [2, 2]

    Args:
      config: a checked config, with features as its source.
      workdir: directory of the sweep; an interrupted sweep in it goes on.
      seeds: how many models.
      grid: the values of each field to vary: `{"loss.margin": [0.5, 1.0]}`, or as the flags of
        `dedn sweep`, `loss.margin=0.5,1.0`; every combination is a point.
      dataset: to train on; None: the one that `config.data` names.
      points_file: in place of a grid, a Python file of named points, or the name of one in
        `configs/ablations/`; see `dedn_jax.sweep.points_file.read_points`.
      callbacks: see the phases of every point in turn; metrics are lists over the models.
      stop: makes the sweep save and raise `Interrupted`; None: nothing does.

    Returns:
      The content of `result.json`.

    Raises:
      InputError: bad data, a bad grid, or a work directory of something else.
      Interrupted: `stop` asked for it; everything is saved.
    """
    check_type("config", config, ConfigDict, "what dedn_jax.load_config gives")
    check_place("workdir", workdir, dataset)
    config = config_with(config, dataset)
    _check(config, seeds)
    points = _points(config, grid, points_file)
    folder = SweepFolder(workdir, config, seeds, points)
    folder.check()
    dataset = load_dataset(config) if dataset is None else dataset
    for point in points:
        _check_point(point, dataset)
    teacher = load_teacher(config, dataset)
    fingerprint = dataset.fingerprint() | (teacher.fingerprint() if teacher else {})
    asked = {"--seeds": seeds, "--grid": [point.fields for point in points]}
    check_agreement("what they sweep", agreed_fields(config, fingerprint) | asked)
    directory = Workdir(workdir)
    with directory.locked():
        if is_main():
            folder.claim(fingerprint)
        directory.share()
        if folder.result_file.exists():
            result = read_sweep_result(folder.result_file)
        else:
            there = directory.check_there
            result = _run(config, seeds, points, folder, there, dataset, teacher, callbacks, stop)
        if is_main() and not folder.plot.exists():
            draw(result, folder.plot)
    return result


def _run(
    config: ConfigDict,
    seeds: int,
    points: list[Point],
    folder: SweepFolder,
    check_there: Callable[[], None],
    dataset: GZSLDataset,
    teacher: Teacher | None,
    callbacks: Sequence[Callback],
    stop: StopRequest | None,
) -> dict[str, Any]:
    """Trains what is left of the points, writes the result, and returns it."""
    layout = ModelLayout.of_devices(seeds)
    if not layout.shards_models and is_main():
        print(
            f"--seeds={seeds} is no multiple of {layout.mesh.size} devices: every device "
            "computes all models; use a multiple to shard them",
            file=sys.stderr,
        )
    all_seeds = [config.seed + i for i in range(seeds)]
    first_start = record_start(folder.path) if is_main() else time.time()
    with stop or StopRequest() as stop, compilation_cache(config):
        features = place_features(dataset.inputs, config, Layout.of_devices(), may_shard=False)
        make_trainer = functools.partial(
            ModelsTrainer,
            layout=layout,
            features=features,
            check_there=check_there,
            first_start=first_start,
            stop=stop,
            callbacks=callbacks if is_main() else (),
            seeds=all_seeds,
            teacher=teacher,
        )
        common = Common(dataset, all_seeds, stop, make_trainer)
        results = [
            run_point(point, number, len(points), folder.point(number), common)
            for number, point in enumerate(points)
        ]
    result = {
        "seeds": all_seeds,
        "shared": SHARED,
        "metric": config.selection.metric,
        "points": results,
    }
    if is_main():
        write_json(folder.result_file, result)
    return result


def _check(config: ConfigDict, seeds: int) -> None:
    check_config(config, "--config")
    check_count("--seeds", seeds)
    if config.seed + seeds > 2**32:
        raise InputError(
            f"--seeds={seeds}: the last seed would be {config.seed + seeds - 1}, expected at most "
            f"2**32 - 1; lower config.seed={config.seed}"
        )
    if config.data.source != "features":
        raise InputError(
            f"config.data.source={config.data.source}: a sweep trains from features; extract "
            "them with `dedn features extract` first"
        )
    found = config.distribution
    for field, fits, advice in (
        ("strategy", found.strategy == "jit", "not batches; use jit"),
        ("attribute_shards", found.attribute_shards == 1, "not attributes; use 1"),
        ("state", found.state != "sharded", "whole; use auto"),
    ):
        if not fits:
            raise InputError(
                f"config.distribution.{field}={found[field]}: a sweep shards models, {advice}"
            )


def _points(config: ConfigDict, grid: Grid, points_file: str | Path | None) -> list[Point]:
    if points_file and grid:
        raise InputError("--grid: --points names every point already; give one of the two")
    return read_points(config, points_file) if points_file else make_points(config, grid)


def _check_point(point: Point, dataset: GZSLDataset) -> None:
    if point.config.train.init_from:
        raise InputError(
            f"config.train.init_from={point.config.train.init_from}: the models of a sweep "
            "differ in the parameters that they start from; leave it empty"
        )
    check_protocol(point.config, dataset)
    groups_of(point.config, dataset)
