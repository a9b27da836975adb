"""Training from a config to a result: which phases a run has, and what it reports."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, Task, trainval_task, validation_task
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.mesh import Layout, local_layout
from dedn_jax.parallel.processes import barrier, is_main
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.training.compilation_cache import use_compilation_cache
from dedn_jax.training.evaluation import (
    Metrics,
    ShouldStop,
    evaluate_task,
    make_predictor,
    metrics_table,
    never_stop,
)
from dedn_jax.training.interrupt import StopRequest, ending_the_run, stop_on_signals
from dedn_jax.training.loop import Phase, PhaseResult, poll_stop, run_phase
from dedn_jax.training.network import Network, make_network
from dedn_jax.training.objective import make_class_space
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.workdir import Workdir

VALIDATION_LABEL = "validation classes"
TEST_BEST_LABEL = "test sets (test-best: selected by test)"


def train(config: ConfigDict, workdir_path: str | Path) -> dict[str, object]:
    """Runs or resumes a training.

    Model selection, `config.selection.protocol`:

    - `validation`: validation classes that training never sees act as unseen, a part of the other
      classes' images as seen. The best step there sets how long the final phase trains on all of
      trainval: from scratch for as many epochs (`refit=retrain`), or on from the selected
      parameters for a share of them (`refit=continue`). The test sets are read once, at the end.
    - `last`: all of trainval for the whole recipe; the test sets are read once, at the end.
    - `test-best`: the published protocol: evaluates on the test sets all along and reports the
      best. Not a fair estimate; labelled as such wherever its numbers appear.

    Args:
      config: a checked config, see `dedn_jax.config.load_config`.
      workdir_path: directory of the run; an interrupted run in it goes on.

    Returns:
      The content of `result.json`.

    Raises:
      InputError: bad data, or a work directory of another run.
      Interrupted: SIGTERM or Ctrl-C; everything is saved.
    """
    workdir = Workdir(workdir_path)
    workdir.check_config(config)
    dataset = load_dataset(config)
    groups = resolve_groups(config.data.groups, dataset.word_vectors, dataset.groups)
    network = make_network(config, dataset, groups)
    check_protocol(config, dataset)
    layout = Layout.of_devices(attribute_shards=config.distribution.attribute_shards)
    # One process holds the directory for all.
    with workdir.locked() if is_main() else contextlib.nullcontext():
        if is_main():
            workdir.claim(config, dataset.fingerprint() | network.fingerprint())
        barrier("the work directory is claimed")
        if workdir.result_file.exists():
            return read_json(workdir.result_file)
        use_compilation_cache(workdir.path, config)
        with stop_on_signals() as stop, jax.default_matmul_precision(config.model.precision):
            table = place_features(dataset.inputs, config, layout)
            result = _run_phases(config, workdir, dataset, groups, network, (table, layout), stop)
        if is_main():
            write_json(workdir.result_file, result)
        barrier("the result is written")
    return result


def _run_phases(
    config: ConfigDict,
    workdir: Workdir,
    dataset: GZSLDataset,
    groups: AttributeGroups,
    network: Network,
    place: tuple[ResidentFeatures | None, Layout],
    stop: StopRequest,
) -> dict[str, object]:
    params = network.params
    protocol = config.selection.protocol
    task = trainval_task(dataset)
    steps = num_steps(task, config, config.train.epochs)
    selection: PhaseResult | None = None
    held: np.ndarray | None = None
    if protocol == "validation":
        candidate = validation_task(
            dataset,
            config.selection.validation_classes,
            config.selection.validation_images,
            config.seed,
        )
        held = candidate.class_ids[~candidate.seen]
        length = num_steps(candidate, config, config.train.epochs)
        phase = Phase("validation", candidate, groups, network, *place, length, VALIDATION_LABEL)
        selection = run_phase(phase, params, config, workdir, stop)
        epochs = selection.selected_step * config.train.batch_size / len(candidate.train)
        if config.selection.refit == "continue":
            params, epochs = selection.params, epochs * config.selection.continue_epochs
        steps = num_steps(task, config, epochs)
    label = TEST_BEST_LABEL if protocol == "test-best" else None
    final = run_phase(
        Phase("final", task, groups, network, *place, steps, label), params, config, workdir, stop
    )
    with ending_the_run("in the evaluation on the test sets"):
        metrics = evaluate_params(
            config,
            dataset,
            groups,
            network,
            final.params,
            *place,
            asked=lambda done: poll_stop(stop, done, 1),
        )
    return _result(config, dataset, selection, held, final, metrics)


def num_steps(task: Task, config: ConfigDict, epochs: float) -> int:
    """`⌊images · epochs / batch⌋`, at least 1."""
    return max(1, int(np.floor(len(task.train) * epochs / config.train.batch_size + 1e-9)))


def evaluate_params(
    config: ConfigDict,
    dataset: GZSLDataset,
    groups: AttributeGroups,
    network: Network,
    params: nnx.State,
    table: ResidentFeatures | None = None,
    layout: Layout | None = None,
    asked: ShouldStop = never_stop,
) -> Metrics:
    """U, S, H and T1 of `params` on the test sets, looked up in `table` if there is one.

    Raises:
      Stopped: as `evaluate_task`.
    """
    task = trainval_task(dataset)
    layout = layout or local_layout()
    classes = make_class_space(task.class_embeddings, task.seen, groups)
    params, classes, frozen = layout.replicate((params, classes, network.frozen))
    return evaluate_task(
        make_predictor(network.definition, Mixing.from_config(config), layout, table),
        params,
        task,
        classes,
        config.evaluate.batch_size,
        frozen=frozen,
        looks_up=table is not None,
        layout=layout,
        workers=config.data.workers,
        asked=asked,
    )


def check_protocol(config: ConfigDict, dataset: GZSLDataset) -> None:
    """Raises InputError where the protocol needs pictures that the data set does not have."""
    if config.selection.protocol == "test-best" and not len(dataset.test_unseen):
        raise InputError(
            f"{dataset.source}: no unseen class has pictures, so config.selection.protocol="
            "test-best has nothing to select by; use validation or last"
        )


def _result(
    config: ConfigDict,
    dataset: GZSLDataset,
    selection: PhaseResult | None,
    held: np.ndarray | None,
    final: PhaseResult,
    metrics: Metrics,
) -> dict[str, object]:
    result: dict[str, object] = {
        "protocol": config.selection.protocol,
        "selected_by": {
            "validation": VALIDATION_LABEL,
            "last": "the last step",
            "test-best": TEST_BEST_LABEL,
        }[config.selection.protocol],
        "seed": config.seed,
        "classes": {
            "seen": len(dataset.seen_classes),
            "unseen": len(dataset.unseen_classes),
        },
        "steps": final.steps,
        "selected_step": final.selected_step,
        "test": metrics,
    }
    if selection is not None and held is not None:
        result["validation_classes"] = {
            "chosen_by": "the data set" if dataset.validation_classes is not None else "the seed",
            "names": [dataset.class_names[k] for k in held],
        }
        result["validation"] = {
            "selected_step": selection.selected_step,
            "steps": selection.steps,
            **(selection.selected_metrics or {}),
        }
        result["refit"] = config.selection.refit
    if final.best_t1 is not None:
        result["test_best_t1"] = final.best_t1
    return result


def result_text(result: dict) -> str:
    """What a training prints at its end."""
    lines = []
    if held := result.get("validation_classes"):
        names = held["names"]
        several = "es" if len(names) > 1 else ""
        lines.append(f"{len(names)} validation class{several}, chosen by {held['chosen_by']}.")
    if validation := result.get("validation"):
        fused = validation["fused"]
        lines.append(
            f"Best on validation classes: step {validation['selected_step']} of "
            f"{validation['steps']}, " + ", ".join(f"{k} {v:.1f}" for k, v in fused.items())
        )
        how = {"retrain": "Retrained", "continue": "Trained on"}[result["refit"]]
        lines.append(f"{how} on all of trainval for {result['steps']} steps.")
    else:
        lines.append(f"Selected by {result['selected_by']}, step {result['selected_step']}.")
    lines += ["", f"Test sets ({result['protocol']}), percent:", metrics_table(result["test"])]
    if best := result.get("test_best_t1"):
        lines.append(f"Best T1 by test (test-best): {best['T1']:.1f} at step {best['step']}")
    return "\n".join(lines)
