"""Training from a config to a result."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.files import write_json
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import barrier, is_main
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.evaluation import Metrics, metrics_table
from dedn_jax.training.interrupt import StopRequest, ending_the_run
from dedn_jax.training.phases import (
    SELECTED_BY,
    Phases,
    check_protocol,
    run_phases,
)
from dedn_jax.training.run import Run
from dedn_jax.training.single import SingleTrainer
from dedn_jax.training.workdir import Workdir


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
      callbacks: see steps, evaluations and phases, in the main process alone.
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
            _train(run, layout, stop, callbacks if is_main() else ())
        if is_main():
            write_json(folder.result_file, run.result)
        barrier("the result is written")
    return run


def _train(run: Run, layout: Layout, stop: StopRequest, callbacks: Sequence[Callback]) -> None:
    """Trains and finishes `run`."""
    config, dataset = run.config, run.dataset
    trainer = SingleTrainer(
        config=config,
        network=run.network,
        groups=run.groups,
        layout=layout,
        features=place_features(dataset.inputs, config, layout),
        folder=run.workdir.path,
        stop=stop,
        callbacks=callbacks,
    )
    phases = run_phases(trainer, dataset, run.network.params)
    with ending_the_run("in the evaluation on the test sets"):
        metrics = trainer.evaluate(trainval_task(dataset), phases.final.params)
    run.finish(phases.final.params, _result(config, dataset, phases, metrics))


def _result(
    config: ConfigDict, dataset: GZSLDataset, phases: Phases, metrics: Metrics
) -> dict[str, object]:
    final, validation = phases.final, phases.validation
    result: dict[str, object] = {
        "protocol": config.selection.protocol,
        "selected_by": SELECTED_BY[config.selection.protocol],
        "seed": config.seed,
        "classes": {
            "seen": len(dataset.seen_classes),
            "unseen": len(dataset.unseen_classes),
        },
        "steps": final.steps,
        "selected_step": final.selected_step,
        "test": metrics,
    }
    if validation is not None and phases.validation_classes is not None:
        result["validation_classes"] = {
            "chosen_by": "the data set" if dataset.validation_classes is not None else "the seed",
            "names": [dataset.class_names[k] for k in phases.validation_classes],
        }
        result["validation"] = {
            "selected_step": validation.selected_step,
            "steps": validation.steps,
            **(validation.selected_metrics or {}),
        }
        result["refit"] = config.selection.refit
    if final.best_t1 is not None:
        result["test_best_t1"] = final.best_t1
    return result


def result_text(result: dict) -> str:
    """What a training prints at its end."""
    lines = []
    if chosen := result.get("validation_classes"):
        names = chosen["names"]
        several = "es" if len(names) > 1 else ""
        lines.append(f"{len(names)} validation class{several}, chosen by {chosen['chosen_by']}.")
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
