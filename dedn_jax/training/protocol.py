"""Training from a config to a result: which phases a run has, and what it reports."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, Task, trainval_task, validation_task
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import barrier, is_main
from dedn_jax.parallel.resident.features import ResidentFeatures
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.evaluation import Metrics, evaluate_params, metrics_table
from dedn_jax.training.interrupt import StopRequest, ending_the_run
from dedn_jax.training.loop import Phase, PhaseResult, poll_stop, run_phase
from dedn_jax.training.run import Run
from dedn_jax.training.workdir import Workdir

VALIDATION_LABEL = "validation classes"
TEST_BEST_LABEL = "test sets (test-best: selected by test)"


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    dataset: GZSLDataset | None = None,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> Run:
    """Runs or resumes a training.

    Model selection, `config.selection.protocol`:

    - `validation`: validation classes that training never sees act as unseen, a part of the other
      classes' images as seen. The best step there sets how long the final phase trains on all of
      trainval: from scratch for as many epochs (`refit=retrain`), or on from the selected
      parameters for a share of them (`refit=continue`). The test sets are read once, at the end.
    - `last`: all of trainval for the whole recipe; the test sets are read once, at the end.
    - `test-best`: the published protocol: evaluates on the test sets all along and reports the
      best. Not a fair estimate; labelled as such wherever its numbers appear.

    Example:
      >>> run = train(config, "runs/mine", dataset=dataset)
      >>> sorted(run.result["test"]["fused"])
      ['H', 'S', 'T1', 'U']

    Args:
      config: a checked config, see `dedn_jax.config.load_config`.
      workdir: directory of the run; an interrupted run in it goes on.
      dataset: to train on; None: the one that `config.data` names.
      callbacks: are told of steps, evaluations and phases.
      stop: makes the training save and raise `Interrupted`; None: nothing does, and Ctrl-C is a
        KeyboardInterrupt, after which the run goes on from its last checkpoint.

    Returns:
      The finished run.

    Raises:
      InputError: bad data, or a work directory of another run.
      Interrupted: `stop` asked for it; everything is saved.
    """
    folder = Workdir(workdir)
    folder.check_config(config)
    run = Run(folder, config, dataset=dataset)
    fingerprint = run.dataset.fingerprint() | run.network.fingerprint()
    check_protocol(config, run.dataset)
    layout = Layout.of_devices(attribute_shards=config.distribution.attribute_shards)
    # One process holds the directory for all.
    with folder.locked() if is_main() else contextlib.nullcontext():
        if is_main():
            folder.claim(config, fingerprint)
        barrier("the work directory is claimed")
        if folder.result_file.exists():
            return run
        with stop or StopRequest() as stop, run.computing():
            table = place_features(run.dataset.inputs, config, layout)
            _run_phases(run, (table, layout), stop, callbacks)
        if is_main():
            write_json(folder.result_file, run.result)
        barrier("the result is written")
    return run


def _run_phases(
    run: Run,
    place: tuple[ResidentFeatures | None, Layout],
    stop: StopRequest,
    callbacks: Sequence[Callback],
) -> None:
    """Trains and finishes `run`."""
    config, dataset, network = run.config, run.dataset, run.network

    def run_and_tell(name: str, task: Task, steps: int, label: str | None) -> PhaseResult:
        for callback in callbacks:
            callback.on_phase_start(name)
        phase = Phase(name, task, run.groups, network, *place, steps, label)
        result = run_phase(phase, params, config, run.workdir, stop)
        for callback in callbacks:
            callback.on_phase_end(name, result)
        return result

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
        selection = run_and_tell("validation", candidate, length, VALIDATION_LABEL)
        epochs = selection.selected_step * config.train.batch_size / len(candidate.train)
        if config.selection.refit == "continue":
            params, epochs = selection.params, epochs * config.selection.continue_epochs
        steps = num_steps(task, config, epochs)
    label = TEST_BEST_LABEL if protocol == "test-best" else None
    final = run_and_tell("final", task, steps, label)
    with ending_the_run("in the evaluation on the test sets"):
        metrics = evaluate_params(
            config,
            dataset,
            run.groups,
            network,
            final.params,
            *place,
            asked=lambda done: poll_stop(stop, done, 1),
        )
    run.finish(final.params, _result(config, dataset, selection, held, final, metrics))


def num_steps(task: Task, config: ConfigDict, epochs: float) -> int:
    """`⌊images · epochs / batch⌋`, at least 1."""
    return max(1, int(np.floor(len(task.train) * epochs / config.train.batch_size + 1e-9)))


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
