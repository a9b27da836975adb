"""Whole trainings on a tiny file: protocols, what they read, what they refuse, what comes out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.cli.main import main
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.inference.published_weights import export_published_weights
from dedn_jax.inference.run import open_run, train
from dedn_jax.interop.convert import state_to_nested
from dedn_jax.training.evaluation import EXPERTS, METRICS
from dedn_jax.training.interrupt import Interrupted, StopRequest
from dedn_jax.training.logs import read_lines
from dedn_jax.training.metrics import per_class_accuracy
from dedn_jax.training.phases import TEST_BEST_LABEL, VALIDATION_LABEL
from dedn_jax.training.prediction import Mixing
from dedn_jax.training.protocol import result_text
from dedn_jax.training.workdir import Workdir
from tests.helpers.tiny import (
    EPOCHS,
    SEEN,
    UNSEEN,
    arrays,
    tiny_config,
    write_tiny,
)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time of change."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")


@dataclasses.dataclass
class Finished:
    """A finished run."""

    path: Path
    config: ConfigDict
    result: dict[str, Any]
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """`finished(protocol)` trains once per protocol and module."""
    runs: dict[str, Finished] = {}

    def get(protocol: str) -> Finished:
        if protocol not in runs:
            path = tmp_path_factory.mktemp("runs") / protocol
            config = tiny_config(data, selection__protocol=protocol)
            result = train(config, path).result
            runs[protocol] = Finished(path, config, result, read_lines(path / "metrics.jsonl"))
        return runs[protocol]

    return get


def check_metrics(metrics: dict[str, dict[str, float]]) -> None:
    assert set(metrics) == set(EXPERTS)
    for values in metrics.values():
        assert set(values) == {*METRICS, "AUSUC"}
        assert all(0 <= v <= 100 for v in values.values())
        assert values["AUSUC"] <= 1
        u, s = values["U"], values["S"]
        assert values["H"] == pytest.approx(2 * u * s / (u + s) if u + s else 0)


# 48 training images of 6 classes; validation: 1 class of 6 (8 images), and 2 of 8 images of each
# of the others: 30 left to train on.
STEPS, VALIDATION_STEPS = 48 * EPOCHS // 12, 30 * EPOCHS // 12


@pytest.mark.parametrize("protocol", ["validation", "last", "test-best"])
def test_result_and_metrics(finished: Callable[[str], Finished], protocol: str) -> None:
    run = finished(protocol)
    result, lines = run.result, run.lines
    assert json.loads((run.path / "result.json").read_text()) == result
    assert result["protocol"] == protocol
    assert result["seed"] == 0
    assert result["classes"] == {"seen": SEEN, "unseen": UNSEEN}
    check_metrics(result["test"])
    # The signal is learnable: chance is 12.5 over all classes, 50 between the two unseen.
    assert result["test"]["fused"]["S"] > 3 * 12.5

    training = [r for r in lines if "loss" in r]
    evaluations = [r for r in lines if "evaluated_on" in r]
    assert len(training) + len(evaluations) == len(lines)
    final = [r["step"] for r in training if r["phase"] == "final"]
    assert final == [*range(3, result["steps"], 3), result["steps"]]
    for r in training:
        assert {"cross_entropy_coarse", "agreement", "calibration_fine", "gradient_norm"} < set(r)
        assert all(np.isfinite(v) for k, v in r.items() if k != "phase")
    assert training[-1]["loss"] < training[0]["loss"] / 2
    for r in evaluations:
        check_metrics({e: r[e] for e in EXPERTS})
    text = result_text(result)
    assert f"{result['test']['fused']['H']:8.1f}" in text
    assert f"Test sets ({protocol}), fixed bias and mixes; U, S, H, T1 in percent:" in text


def test_validation_selects_on_validation(finished: Callable[[str], Finished]) -> None:
    run = finished("validation")
    result = run.result
    evaluations = [r for r in run.lines if "evaluated_on" in r]
    assert {(r["phase"], r["evaluated_on"]) for r in evaluations} == {
        ("validation", VALIDATION_LABEL)
    }
    assert [r["step"] for r in evaluations] == [*range(2, VALIDATION_STEPS, 2), VALIDATION_STEPS]
    best = max(evaluations, key=lambda r: r["fused"]["H"])  # the first of equals
    validation = result["validation"]
    assert validation["steps"] == VALIDATION_STEPS
    assert validation["selected_step"] == best["step"]
    assert {e: validation[e] for e in EXPERTS} == {e: best[e] for e in EXPERTS}
    assert best["fused"]["H"] > 0
    # Retrained for as many epochs: 12 images a step, 30 against 48 training images.
    expected = int(np.floor(48 * (best["step"] * 12 / 30) / 12 + 1e-9))
    assert result["steps"] == result["selected_step"] == expected
    assert result["selected_by"] == VALIDATION_LABEL
    assert result["refit"] == "retrain"
    assert "test_best_t1" not in result


def test_last_evaluates_nothing_before_the_end(finished: Callable[[str], Finished]) -> None:
    run = finished("last")
    assert not [r for r in run.lines if "evaluated_on" in r]
    assert {r["phase"] for r in run.lines} == {"final"}
    assert run.result["steps"] == run.result["selected_step"] == STEPS
    assert run.result["selected_by"] == "the last step"
    assert "validation" not in run.result
    assert "test_best_t1" not in run.result


def test_test_best_is_labelled_everywhere(finished: Callable[[str], Finished]) -> None:
    run = finished("test-best")
    assert "test-best" in TEST_BEST_LABEL
    evaluations = [r for r in run.lines if set(EXPERTS) & set(r)]
    assert [r["step"] for r in evaluations] == list(range(4, STEPS + 1, 4))
    assert all(r["evaluated_on"] == TEST_BEST_LABEL for r in evaluations)
    assert run.result["selected_by"] == TEST_BEST_LABEL
    text = result_text(run.result)
    assert TEST_BEST_LABEL in text
    assert "Test sets (test-best)" in text
    best = max(evaluations, key=lambda r: r["fused"]["H"])
    assert run.result["selected_step"] == best["step"]
    assert run.result["test"] == {e: best[e] for e in EXPERTS}
    best_t1 = max(evaluations, key=lambda r: r["fused"]["T1"])
    assert run.result["test_best_t1"] == {"T1": best_t1["fused"]["T1"], "step": best_t1["step"]}


class Recorder:
    """Feature maps that note which images are read, and when."""

    def __init__(self, features: Any, when: Callable[[], str]) -> None:
        self._features, self._when = features, when
        self.read: dict[str, list[int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        self.read.setdefault(self._when(), []).extend(np.asarray(indices).tolist())
        return self._features[indices]


@pytest.mark.parametrize("protocol", ["validation", "last"])
def test_test_images_are_read_once_at_the_end(data: Path, tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "run"

    def when() -> str:
        if not (path / "config.json").exists():
            return "start-up"  # the fingerprint looks at a sample of all images
        for phase in ("final", "validation"):
            if (path / phase / "result.json").exists():
                return f"after {phase}"
        return "before"

    dataset = load_dataset(tiny_config(data))
    recorder = Recorder(dataset.inputs, when)
    dataset = dataclasses.replace(dataset, inputs=recorder)
    config = tiny_config(data, selection__protocol=protocol, train__epochs=3)
    train(config, path, dataset=dataset)

    test = sorted([*dataset.test_seen, *dataset.test_unseen])
    trainval = set(dataset.trainval.tolist())
    before = recorder.read["before"] + recorder.read.get("after validation", [])
    assert not set(before) & set(test)
    assert set(before) <= trainval
    # Eight at a time divide both test sets: nothing is repeated to fill a batch.
    assert sorted(recorder.read["after final"]) == test
    assert ("after validation" in recorder.read) == (protocol == "validation")


def test_validation_knows_nothing_of_the_test_sets(data: Path, tmp_path: Path) -> None:
    """Other test images and other unseen classes: bit for bit the same selection."""
    other = write_tiny(tmp_path / "other.hdf5", unseen=1)
    outcomes = []
    for name, file in (("a", data), ("b", other)):
        result = train(tiny_config(file, train__epochs=3), tmp_path / name).result
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        outcomes.append((result["validation"], [r for r in lines if r["phase"] == "validation"]))
        fingerprint = json.loads((tmp_path / name / "dataset.json").read_text())
        outcomes[-1] += (fingerprint["class_embeddings"],)
    assert outcomes[0][:2] == outcomes[1][:2]
    assert outcomes[0][2] != outcomes[1][2]  # the data sets did differ


class StopAfter(StopRequest):
    """Asks to stop when it was looked at a number of times; 0: never."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def signal_number(self) -> int:  # type: ignore[override]
        self._looks -= 1
        return signal.SIGTERM if self._looks == 0 else 0


class DieAfter(StopAfter):
    """Ends the run where `StopAfter` would ask it to stop: nothing is saved."""

    @property
    def signal_number(self) -> int:  # type: ignore[override]
        if super().signal_number:
            raise RuntimeError("killed")
        return 0


def test_stopped_within_evaluations(
    data: Path,
    tmp_path: Path,
    finished: Callable[[str], Finished],
) -> None:
    """They are not waited for: a run that goes on evaluates first, and ends as if undisturbed."""
    path, expected = tmp_path / "run", finished("test-best")  # before signals are made up
    assert STEPS == 80 and [r["step"] for r in expected.lines if "fused" in r][:2] == [4, 8]
    # There is a look after each step, and between the 6 batches of the 48 test images; every fourth
    # step is evaluated.
    looks, cycle = 5, 4 + 5
    disturbed: list[tuple[StopAfter, str]] = [
        (StopAfter(4 + 3), "stopped at step 4 of 80 of phase final"),
        (StopAfter(2), "stopped at step 4 of 80 of phase final"),  # in the same evaluation
        (StopAfter(looks + 4), "stopped at step 8 of 80"),  # before the next one
        (DieAfter(looks + 2), "killed"),  # at step 10, with an evaluation that was not saved
        (StopAfter(looks + 17 * cycle + 4 + 1), "stopped at step 80 of 80"),
        (StopAfter(looks + 2), "stopped in the evaluation on the test sets"),
    ]
    for request, message in disturbed:
        with pytest.raises((Interrupted, RuntimeError), match=message):
            train(expected.config, path, stop=request)
    assert train(expected.config, path).result == expected.result
    assert read_lines(path / "metrics.jsonl") == expected.lines
    theirs = arrays(expected.path)
    for name, found in arrays(path).items():
        np.testing.assert_array_equal(found, theirs[name], err_msg=name)


@pytest.mark.parametrize("protocol", ["test-best", "last"])
def test_maps_on_the_device_change_nothing(
    data: Path,
    tmp_path: Path,
    finished: Callable[[str], Finished],
    protocol: str,
) -> None:
    """Batches drawn there, several steps a call, interrupted and gone on with other calls."""
    path, streamed = tmp_path / "run", finished(protocol)  # before signals are made up
    done = []
    for most, looks in ((3, 3), (32, 2), (5, 0)):
        fields = {"selection__protocol": protocol, "train__steps_per_call": most}
        config = tiny_config(data, data__on_device="replicated", **fields)
        with contextlib.suppress(Interrupted):
            train(config, path, stop=StopAfter(looks))
        done.append(max(r["step"] for r in read_lines(path / "metrics.jsonl")))
    # Calls of at most 3, then of at most 32, which end where something is due.
    assert 0 < done[0] < done[1] < done[2] == streamed.result["steps"]
    lines = read_lines(path / "metrics.jsonl")
    assert [r for r in lines if set(EXPERTS) & set(r)] == [
        r for r in streamed.lines if set(EXPERTS) & set(r)
    ]
    losses, expected = (
        {r["step"]: r["loss"] for r in found if "loss" in r} for found in (lines, streamed.lines)
    )
    assert losses == pytest.approx(expected, rel=1e-5)
    theirs = arrays(streamed.path)
    for name, found in arrays(path).items():
        assert np.abs(found - theirs[name]).max() <= 1e-5 * np.abs(theirs[name]).max()
    result = json.loads((path / "result.json").read_text())
    assert result["test"] == streamed.result["test"]


def test_refit_continue(data: Path, tmp_path: Path) -> None:
    """On from the selected parameters, for a share of the selected epochs."""
    config = tiny_config(
        data,
        selection__refit="continue",
        selection__continue_epochs=0.01,
        optimizer__momentum=0.0,
        optimizer__learning_rate=0.003,
        train__epochs=4,
    )
    path = tmp_path / "run"
    result = train(config, path).result
    assert result["refit"] == "continue"
    assert result["steps"] == 1  # never less than one
    final = arrays(path)
    shutil.rmtree(path / "final" / "selected")
    shutil.copytree(path / "validation" / "selected", path / "final" / "selected")
    selected = arrays(path)
    initial = arrays_of_initial(path)
    for name in final:
        # RMSprop's first step is lr · g / sqrt(0.01 g²): ten times the learning rate at most.
        assert np.abs(final[name] - selected[name]).max() <= 10 * 0.003 * 1.001
        assert np.abs(final[name] - selected[name]).max() > 0.003
    moved = max(np.abs(final[name] - initial[name]).max() for name in final)
    assert moved > 1.5 * 10 * 0.003  # more than one step from the beginning


def arrays_of_initial(path: Path) -> dict[str, np.ndarray]:
    nested = state_to_nested(open_run(path).network.params)
    networks = {"coarse": nested["coarse"]}
    networks |= {f"fine{g}": network for g, network in enumerate(nested["fine"])}
    return {f"{n}.{k}": v for n, network in networks.items() for k, v in network.items()}


def test_a_finished_run_is_left_as_it_is(
    finished: Callable[[str], Finished], data: Path, tmp_path: Path
) -> None:
    """Training again gives the same result without training; free fields may differ."""
    run = finished("validation")
    moved = shutil.copy(data, tmp_path / "moved.hdf5")
    before = snapshot(run.path)
    fields = {"train__log_every": 1, "train__checkpoint_every": 1, "train__checkpoints_kept": 3}
    again = train(tiny_config(Path(moved), **fields), run.path)
    assert again.result == run.result
    # The config keeps the free fields as they are now: the data may have moved.
    assert open_run(run.path).evaluate() == run.result["test"]
    after = snapshot(run.path)
    kept = before.keys() - {"config.json"}
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}
    train(run.config, run.path)
    assert snapshot(run.path)["config.json"][0] == before["config.json"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, r"another config \(seed=0 there, 1 now\)"),
        ({"train__epochs": 21}, r"another config \(train.epochs=20 there, 21 now\)"),
        (
            {"selection__protocol": "last", "loss__bias": 2.0},
            r"loss.bias=1.0 there, 2.0 now; selection.protocol='validation' there, 'last' now",
        ),
    ],
)
def test_another_config_is_refused(
    finished: Callable[[str], Finished], data: Path, fields: dict[str, object], message: str
) -> None:
    run = finished("validation")
    before = snapshot(run.path)
    with pytest.raises(InputError, match=message):
        train(tiny_config(data, **fields), run.path)
    assert snapshot(run.path) == before


def test_another_data_set_is_refused(finished: Callable[[str], Finished], tmp_path: Path) -> None:
    run = finished("validation")
    before = snapshot(run.path)
    other = tiny_config(write_tiny(tmp_path / "other.hdf5", seed=1))
    with pytest.raises(InputError, match=r"another data set \(differs in .*feature_sample"):
        train(other, run.path)
    # An evaluation looks as well: the file may have been changed under the run.
    with pytest.raises(InputError, match=r"a run on another data set \(differs in"):
        open_run(run.path, dataset=load_dataset(other)).evaluate()
    assert snapshot(run.path) == before


def test_foreign_directories_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"full is not empty and holds no run; choose another"):
        train(tiny_config(data), tmp_path / "full")
    with pytest.raises(InputError, match=r"thesis.tex is a file, expected a directory"):
        train(tiny_config(data), tmp_path / "full" / "thesis.tex")
    with pytest.raises(InputError, match=r"full holds no run \(no config.json\)"):
        open_run(tmp_path / "full")
    assert snapshot(tmp_path) == before


def test_killed_while_claiming_the_directory(data: Path, tmp_path: Path) -> None:
    """A run that died before its first two files were both there can be started again."""
    config = tiny_config(data, selection__protocol="last", train__epochs=1)
    path = tmp_path / "run"
    path.mkdir()
    for leftover in (".dataset.json.abc", ".config.json.abc"):
        (path / leftover).write_text("{")
    write_json(path / "dataset.json", load_dataset(config).fingerprint())
    result = train(config, path).result
    assert result["steps"] == 4
    assert train(config, path).result == result
    # Beside anything else they are no sign of a run.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset.json").write_text('{"images": 3}')
    with pytest.raises(InputError, match="another data set"):  # somebody else's file
        train(config, tmp_path / "other")
    assert (tmp_path / "other" / "dataset.json").read_text() == '{"images": 3}'
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        train(config, tmp_path / "other")


def test_one_process_at_a_time(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, selection__protocol="last", train__epochs=1)
    with (
        Workdir(tmp_path / "run").locked(),
        pytest.raises(InputError, match="another process trains in"),
    ):
        train(config, tmp_path / "run")
    assert train(config, tmp_path / "run").result["steps"] == 4


def test_evaluate_takes_free_fields_only(finished: Callable[[str], Finished]) -> None:
    run = finished("last")
    again = open_run(run.path, ["--config.evaluate.batch_size=3"])
    assert again.evaluate() == run.result["test"]
    with pytest.raises(InputError, match=r"config.loss.bias is fixed for this run; .*data\.path"):
        open_run(run.path, ["--config.loss.bias=3"])


def test_an_older_config_is_filled_up(finished: Callable[[str], Finished], tmp_path: Path) -> None:
    """A field that came later is taken as the base has it; a strange one is named."""
    path = tmp_path / "run"
    shutil.copytree(finished("last").path, path)
    config = json.loads((path / "config.json").read_text())
    del config["loss"]["kl_temperature"]
    (path / "config.json").write_text(json.dumps(config))
    assert open_run(path).evaluate() == finished("last").result["test"]
    config["loss"]["strange"] = 1
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config.json: not a config of this version: .*strange"):
        open_run(path)


def evaluated(path: Path, *flags: str) -> dict[str, Any]:
    """The report of `dedn evaluate`."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["evaluate", f"--workdir={path}", *flags]) == 0
    report: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return report


def test_evaluate_gives_the_trainings_numbers(
    finished: Callable[[str], Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    for protocol in ("validation", "test-best"):
        run = finished(protocol)
        reports = [evaluated(run.path)]
        reports += [evaluated(run.path, f"--batch-size={size}") for size in (1, 7, 1000)]
        for report in reports:
            expected = {
                "protocol": protocol,
                "weights": "selected",
                "images": 6 * 4 + 2 * 12,
                "test": run.result["test"],
            }
            if protocol == "validation":
                expected["test_calibrated"] = run.result["test_calibrated"]
            assert report == expected
    assert main(["evaluate", f"--workdir={finished('last').path}", "--batch-size=0"]) == 2
    assert "--batch-size=0, expected at least 1" in capsys.readouterr().err


def test_evaluate_needs_a_finished_run(finished: Callable[[str], Finished], tmp_path: Path) -> None:
    run = finished("last")
    for name in ("config.json", "dataset.json"):
        shutil.copy(run.path / name, tmp_path / name)
    with pytest.raises(InputError, match=r"no trained model here; finish `dedn train` first"):
        open_run(tmp_path).evaluate()
    with pytest.raises(InputError, match=r"result.json: missing, the run is not finished; train"):
        _ = open_run(tmp_path).result


@pytest.mark.torch
def test_exported_weights_evaluate_alike(
    finished: Callable[[str], Finished], tmp_path: Path
) -> None:
    import torch

    run = finished("validation")
    file = tmp_path / "model.pt"
    export_published_weights(open_run(run.path), file)
    report = evaluated(run.path, f"--weights={file}")
    assert report["protocol"] == "given weights"
    assert report["weights"] == str(file)
    assert report["test"] == run.result["test"]
    # It is the file that was evaluated: without its region scores little is left.
    state = torch.load(file, weights_only=True)
    for name in state:
        if name.endswith(("H_1", "H_3")):
            state[name] = -state[name]
    torch.save(state, file)
    worse = evaluated(run.path, f"--weights={file}")["test"]["fused"]["S"]
    assert worse < run.result["test"]["fused"]["S"] - 20


class Spoiled:
    """Feature maps that turn to NaN after a number of reads of a size."""

    def __init__(self, features: Any, size: int, good: int) -> None:
        self._features, self._size, self._left = features, size, good

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        maps = self._features[indices]
        if len(indices) == self._size:
            self._left -= 1
        return maps if self._left >= 0 else np.full_like(maps, np.nan)


@pytest.mark.parametrize(
    ("log_every", "checkpoint_every"),
    [
        (1, 5),
        (7, 3),
    ],
)
def test_a_loss_that_is_not_finite(
    data: Path,
    tmp_path: Path,
    log_every: int,
    checkpoint_every: int,
) -> None:
    """It stops with the step and the terms; what was saved is sound, and the run can go on."""
    config = tiny_config(
        data,
        selection__protocol="last",
        train__epochs=6,
        train__log_every=log_every,
        train__checkpoint_every=checkpoint_every,
    )
    path = tmp_path / "run"
    dataset = load_dataset(config)
    spoiled = Spoiled(dataset.inputs, 12, good=11)
    with pytest.raises(
        FloatingPointError, match=r"phase final, step 1\d: .*loss.* not finite; the checkpoints"
    ):
        train(config, path, dataset=dataclasses.replace(dataset, inputs=spoiled))
    assert not (path / "result.json").exists()
    assert not (path / "final" / "result.json").exists()
    saved = [int(p.name) for p in (path / "final" / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved
    # With sound features the run goes on from there, and ends where an undisturbed one does.
    train(config, path)
    train(config, tmp_path / "undisturbed")
    found, expected = arrays(path), arrays(tmp_path / "undisturbed")
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_two_trainings_are_bit_identical(
    finished: Callable[[str], Finished], tmp_path: Path
) -> None:
    run = finished("last")
    jax.clear_caches()  # compiled anew
    assert train(run.config, tmp_path / "run").result == run.result
    first, second = arrays(run.path), arrays(tmp_path / "run")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    name = "metrics.jsonl"
    assert (run.path / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_scores_file(finished: Callable[[str], Finished], tmp_path: Path) -> None:
    """`dedn evaluate --scores`: mixed by hand as the config says, they give the same U and S."""
    run, file = finished("validation"), tmp_path / "scores.npz"
    evaluated(run.path, f"--scores={file}")
    with np.load(file) as saved:
        scores = dict(saved)
    mixing = Mixing.from_config(run.config)
    m, e = mixing.region_mix, mixing.expert_mix
    coarse, fine = (
        m * scores[f"classes_{x}_region"] + (1 - m) * scores[f"classes_{x}_channel"]
        for x in ("coarse", "fine")
    )
    chosen = (e * coarse + (1 - e) * fine + mixing.gamma * ~scores["seen"]).argmax(1)
    labels = scores["labels"]
    unseen = ~scores["seen"][labels]
    fused = run.result["test"]["fused"]
    assert per_class_accuracy(chosen[unseen], labels[unseen]) == pytest.approx(fused["U"])
    assert per_class_accuracy(chosen[~unseen], labels[~unseen]) == pytest.approx(fused["S"])
    assert scores["attributes_fine_channel"].shape == (6 * 4 + 2 * 12, 6)
    assert scores["class_names"][scores["class_ids"]].tolist() == [f"class {k}" for k in range(8)]


def test_scores_file_with_another_suffix(
    finished: Callable[[str], Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished("last")
    assert main(["evaluate", f"--workdir={run.path}", "--scores=scores.csv"]) == 2
    assert "scores.csv: expected a name that ends in .npz" in capsys.readouterr().err
