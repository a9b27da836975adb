"""Trains a run from its config to its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset, trainval_task
from dedn_jax.files import write_json
from dedn_jax.parallel.agreement import check_agreement
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.processes import is_main
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.pulse import PULSE
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.environment import record_start
from dedn_jax.training.evaluation import AUSUC, METRICS, Metrics, metrics_table
from dedn_jax.training.init_run import Initial, initial_params
from dedn_jax.training.interrupt import StopRequest, ending_the_run
from dedn_jax.training.phases import (
    SELECTED_BY,
    VALIDATION_LABEL,
    Phases,
    check_protocol,
    run_phases,
)
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.single import SingleTrainer
from dedn_jax.training.teacher import Teacher
from dedn_jax.training.teacher_run import load_teacher
from dedn_jax.training.trainer import Tested
from dedn_jax.training.workdir import agreed_fields

_FEW = 4  # validation classes: with fewer, a picture can turn what they choose


def train_run(
    run: TrainingRun, *, callbacks: Sequence[Callback] = (), stop: StopRequest | None = None
) -> None:
    """Trains a run or resumes it; see `dedn_jax.train` for protocols, arguments and errors."""
    folder, config = run.workdir, run.config
    folder.check_config(config)
    PULSE.beat("reading the data set and the backbone")
    fingerprint = run.dataset.fingerprint() | run.network.fingerprint()
    if teacher := load_teacher(config, run.dataset):
        fingerprint |= teacher.fingerprint()
    initial = initial_params(config, run.dataset, run.network)
    fingerprint |= initial.fingerprint()
    check_protocol(config, run.dataset)
    check_agreement("what they run", agreed_fields(config, fingerprint))
    layout = Layout.from_config(config, run.network.params)
    with folder.locked():
        if is_main():
            folder.claim(config, fingerprint)
        folder.share()
        if folder.result_file.exists():
            return
        if is_main() and (note := layout.state_note(config.distribution.state)):
            print(note, file=sys.stderr)
        first_start = record_start(folder.path) if is_main() else time.time()
        with stop or StopRequest() as stop, run.computing():
            shown = callbacks if is_main() else ()
            _train(run, initial, layout, first_start, stop, shown, teacher)
        if is_main():
            write_json(folder.result_file, run.result)


def _train(
    run: TrainingRun,
    initial: Initial,
    layout: Layout,
    first_start: float,
    stop: StopRequest,
    callbacks: Sequence[Callback],
    teacher: Teacher | None,
) -> None:
    """Trains and finishes `run`."""
    config, dataset = run.config, run.dataset
    PULSE.beat("placing features on the devices")
    trainer = SingleTrainer(
        config=config,
        network=run.network,
        groups=run.groups,
        layout=layout,
        features=place_features(dataset.inputs, config, layout),
        folder=run.workdir.path,
        check_there=run.workdir.check_there,
        first_start=first_start,
        stop=stop,
        callbacks=callbacks,
        teacher=teacher,
        tensorboard=run.workdir.tensorboard,
    )
    phases = run_phases(trainer, dataset, initial.params)
    with ending_the_run("in the evaluation on the test sets"):
        (tested,) = trainer.test(trainval_task(dataset), phases.final.params, phases.calibrations)
    assert tested is not None  # one model that diverges ends its run
    run.finish(phases.final.params, _result(config, dataset, phases, tested))


def _result(
    config: ConfigDict, dataset: GZSLDataset, phases: Phases, tested: Tested
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
        "test": tested.fixed,
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
    if phases.calibrations is not None:
        (calibration,) = phases.calibrations
        assert calibration is not None
        result["calibration"] = {"chosen_on": VALIDATION_LABEL} | calibration.to_json()
        result["test_calibrated"] = tested.calibrated
    if final.best_t1 is not None:
        result["test_best_t1"] = final.best_t1
    return result


def test_text(metrics: Metrics, protocol: str) -> list[str]:
    """The lines that show test metrics with the config's mixes and bias."""
    seen_only = all("U" not in row for row in metrics.values())
    what = "no unseen class has pictures; S" if seen_only else "U, S, H, T1"
    title = f"Test sets ({protocol}), fixed bias and mixes; {what} in percent:"
    return [title, metrics_table(metrics)]


def calibrated_text(calibration: dict, metrics: Metrics) -> list[str]:
    """The lines that show what was calibrated, and the calibrated test metrics."""
    m = calibration["fused"]
    return [
        f"Calibrated on {calibration['chosen_on']} (fused: gamma {m['gamma']:.3g}, expert_mix "
        f"{m['expert_mix']:.3g}, region_mix {m['region_mix']:.3g}):",
        metrics_table(metrics),
    ]


def result_text(result: dict) -> str:
    """What a training prints at its end."""
    lines = []
    if chosen := result.get("validation_classes"):
        names = chosen["names"]
        several = "es" if len(names) > 1 else ""
        few = "" if len(names) >= _FEW else "; what so few choose may not hold for other classes"
        by = chosen["chosen_by"]
        lines.append(f"{len(names)} validation class{several}, chosen by {by}{few}.")
    if validation := result.get("validation"):
        fused = validation["fused"]
        lines.append(
            f"Best on validation classes: step {validation['selected_step']} of "
            f"{validation['steps']}, "
            + ", ".join(f"{k} {fused[k]:.1f}" for k in METRICS)
            + (f", {AUSUC} {fused[AUSUC]:.3f}" if AUSUC in fused else "")
        )
        if "H" not in result["test"]["fused"] and (chosen := result.get("calibration")):
            calibrated = chosen["fused"]["validation"]
            numbers = ", ".join(f"{k} {calibrated[k]:.1f}" for k in METRICS)
            lines.append(f"Calibrated on them: {numbers}.")
        how = {"retrain": "Retrained", "continue": "Trained on"}[result["refit"]]
        lines.append(f"{how} on all of trainval for {result['steps']} steps.")
    else:
        lines.append(f"Selected by {result['selected_by']}, step {result['selected_step']}.")
    lines += ["", *test_text(result["test"], result["protocol"])]
    if calibration := result.get("calibration"):
        lines += ["", *calibrated_text(calibration, result["test_calibrated"])]
    if best := result.get("test_best_t1"):
        lines.append(f"Best T1 by test (test-best): {best['T1']:.1f} at step {best['step']}")
    return "\n".join(lines)
