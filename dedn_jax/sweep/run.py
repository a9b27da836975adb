"""A sweep from a config to its result: `S` models in one program, for every point of a grid."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.config import check_config
from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.agreement import check_agreement
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import barrier, is_main, max_over_processes
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.sweep.folder import METRICS_FILE, SweepFolder
from dedn_jax.sweep.layout import ModelLayout, stack
from dedn_jax.sweep.points import Point, make_points
from dedn_jax.sweep.points_file import read_points
from dedn_jax.sweep.report import SHARED, draw, summaries
from dedn_jax.sweep.result_file import read_point, read_sweep_result
from dedn_jax.sweep.trainer import ModelsResult, ModelsTrainer
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.training.environment import record_start
from dedn_jax.training.interrupt import StopRequest, ending_the_run, stopped_run
from dedn_jax.training.logs import last_step_seconds
from dedn_jax.training.network import Network, make_network
from dedn_jax.training.phase import STREAMS
from dedn_jax.training.phases import SELECTED_BY, check_protocol, run_phases
from dedn_jax.training.teacher import Teacher
from dedn_jax.training.teacher_run import load_teacher
from dedn_jax.training.workdir import Workdir, agreed_fields


class _Common(NamedTuple):
    """What all points share."""

    dataset: GZSLDataset
    teacher: Teacher | None
    features: ResidentFeatures | None
    layout: ModelLayout
    seeds: list[int]
    callbacks: Sequence[Callback]
    stop: StopRequest
    first_start: float


def sweep(
    config: ConfigDict,
    workdir_path: str | Path,
    seeds: int,
    grid: Sequence[str] = (),
    *,
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

    Args:
      config: a checked config, with features as its source.
      workdir_path: directory of the sweep; an interrupted sweep in it goes on.
      seeds: how many models.
      grid: see `dedn_jax.sweep.points.make_points`.
      points_file: in place of a grid, see `dedn_jax.sweep.points_file.read_points`.
      callbacks: see the phases of every point in turn; metrics are lists over the models.
      stop: makes the sweep save and raise `Interrupted`; None: nothing does.

    Returns:
      The content of `result.json`.

    Raises:
      InputError: bad data, a bad grid, or a work directory of something else.
      Interrupted: `stop` asked for it; everything is saved.
    """
    _check(config, seeds)
    if points_file and grid:
        raise InputError("--grid: --points names every point already; give one of the two")
    points = read_points(config, points_file) if points_file else make_points(config, grid)
    folder = SweepFolder(workdir_path, config, seeds, points)
    folder.check()
    dataset = load_dataset(config)
    for point in points:
        if point.config.train.init_from:
            raise InputError(
                f"config.train.init_from={point.config.train.init_from}: the models of a sweep "
                "differ in the parameters that they start from; leave it empty"
            )
        check_protocol(point.config, dataset)
        _groups(point.config, dataset)
    teacher = load_teacher(config, dataset)
    fingerprint = dataset.fingerprint() | (teacher.fingerprint() if teacher else {})
    asked = {"--seeds": seeds, "--grid": [point.fields for point in points]}
    check_agreement("what they sweep", agreed_fields(config, fingerprint) | asked)
    # One process holds the directory for all.
    with Workdir(workdir_path).locked() if is_main() else contextlib.nullcontext():
        if is_main():
            folder.claim(fingerprint)
        Workdir(workdir_path).share()
        if not folder.result_file.exists():
            layout = ModelLayout.of_devices(seeds)
            if not layout.shards_models and is_main():
                _say(
                    f"--seeds={seeds} is no multiple of {layout.mesh.size} devices: every device "
                    "computes all models; use a multiple to shard them"
                )
            first_start = record_start(folder.path) if is_main() else time.time()
            with stop or StopRequest() as stop, compilation_cache(config):
                features = place_features(
                    dataset.inputs, config, Layout.of_devices(), may_shard=False
                )
                all_seeds = [config.seed + i for i in range(seeds)]
                shown = callbacks if is_main() else ()
                common = _Common(
                    *(dataset, teacher, features, layout, all_seeds, shown, stop),
                    first_start,
                )
                results = [
                    _point(point, number, len(points), folder.point(number), common)
                    for number, point in enumerate(points)
                ]
            if is_main():
                write_json(
                    folder.result_file,
                    {
                        "seeds": all_seeds,
                        "shared": SHARED,
                        "metric": config.selection.metric,
                        "points": results,
                    },
                )
            barrier("the result is written")
        result = read_sweep_result(folder.result_file)
        if is_main() and not folder.plot.exists():
            draw(result, folder.plot)
    return result


def _check(config: ConfigDict, seeds: int) -> None:
    check_config(config, "--config")
    if seeds < 1:
        raise InputError(f"--seeds={seeds}, expected at least 1")
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
    if config.distribution.strategy != "jit":
        raise InputError(
            f"config.distribution.strategy={config.distribution.strategy}: a sweep shards "
            "models, not batches; use jit"
        )
    if config.distribution.attribute_shards != 1:
        raise InputError(
            f"config.distribution.attribute_shards={config.distribution.attribute_shards}: a sweep "
            "shards models, not attributes; use 1"
        )


def _point(
    point: Point, number: int, points: int, folder: Path, common: _Common
) -> dict[str, object]:
    """The result of a point, which is trained unless it was finished before."""
    file = folder / "result.json"
    if file.exists():
        return read_point(file)
    if points > 1 and is_main():
        _say(f"point {number + 1} of {points}: {point}")
    if signal := max_over_processes(common.stop.signal_number):
        raise stopped_run(signal, f"before point {number + 1} of {points}")
    where = f" of point {number + 1}/{points}" if points > 1 else ""
    with jax.default_matmul_precision(point.config.model.precision):
        result = _train(point, where, folder, common)
    if is_main():
        write_json(file, result)
    barrier(f"point {number} is finished")
    return result


def _train(point: Point, where: str, folder: Path, common: _Common) -> dict[str, object]:
    config, dataset = point.config, common.dataset
    groups = _groups(config, dataset)
    network, *others = (_network(config, seed, dataset, groups) for seed in common.seeds)
    trainer = ModelsTrainer(
        config=config,
        network=network,
        groups=groups,
        layout=common.layout,
        features=common.features,
        folder=folder,
        first_start=common.first_start,
        stop=common.stop,
        callbacks=common.callbacks,
        seeds=common.seeds,
        where=where,
        seconds_before=_seconds_of_others(folder),
        teacher=common.teacher,
    )
    params = stack([n.params for n in (network, *others)])
    phases = run_phases(trainer, dataset, dict.fromkeys(STREAMS, params))
    validation, final = phases.validation, phases.final
    assert isinstance(final, ModelsResult)
    remaining = ~trainer.diverged
    with ending_the_run("in the evaluation on the test sets"):
        tested = trainer.test(trainval_task(dataset), final.params, phases.calibrations)
    metrics = [one and one.fixed for one in tested]
    diverged_at = final.diverged_at
    protocol = config.selection.protocol
    result: dict[str, object] = {"fields": point.fields, "protocol": protocol}
    if point.name:
        result["name"] = point.name
    if isinstance(validation, ModelsResult):
        pairs = zip(validation.diverged_at, final.diverged_at, strict=True)
        diverged_at = [a or b for a, b in pairs]
        selected = _validation(validation)
        measured = [one if "fused" in one else None for one in selected]
        result |= {
            "refit": config.selection.refit,
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
    if protocol == "test-best":
        result["test_best_t1"] = _of(remaining, final.best_t1)
    return result | {
        "selected_by": SELECTED_BY[protocol],
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


def _groups(config: ConfigDict, dataset: GZSLDataset) -> AttributeGroups:
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


def _say(text: str) -> None:
    print(text, file=sys.stderr)
