"""Training from Python: callbacks, requests to stop, threads, and what it leaves unchanged."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import dedn_jax
from dedn_jax.training.interrupt import StopOnSignals
from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import arrays, tiny_config

FIELDS: dict[str, object] = {"train__epochs": 3, "train__log_every": 2}


class Recorder(dedn_jax.Callback):
    """Everything it is told, as lines of `metrics.jsonl`."""

    def __init__(self) -> None:
        self.phase = ""
        self.phases: list[tuple[str, int]] = []
        self.lines: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def on_phase_start(self, phase: str) -> None:
        self.phase = phase
        self.threads.add(threading.get_ident())

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines.append({"phase": self.phase, "step": step, **metrics})

    def on_evaluation(self, step: int, label: str, metrics: Any) -> None:
        self.lines.append({"phase": self.phase, "step": step, "evaluated_on": label, **metrics})

    def on_phase_end(self, phase: str, result: Any) -> None:
        self.phases.append((phase, result.selected_step))


class Spoils(dedn_jax.Callback):
    """Keeps nothing of what it is given as it was."""

    def on_evaluation(self, step: int, label: str, metrics: Any) -> None:
        for row in metrics.values():
            row.clear()


@pytest.fixture(scope="module")
def in_a_thread(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dedn_jax.Run, Recorder]:
    """A training in another thread than the main one."""
    path, recorder = tmp_path_factory.mktemp("run") / "run", Recorder()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    runs: list[dedn_jax.Run] = []

    def work() -> None:
        callbacks = [Spoils(), recorder]
        runs.append(dedn_jax.train(tiny_config(data, **FIELDS), path, callbacks=callbacks))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        thread.join(0.1)
    assert recorder.threads == {thread.ident}
    assert jax.config.jax_compilation_cache_dir == cache  # type: ignore[attr-defined]
    return runs[0], recorder


def test_callbacks_see_what_the_log_gets(in_a_thread: tuple[dedn_jax.Run, Recorder]) -> None:
    run, recorder = in_a_thread
    assert recorder.lines == read_lines(run.workdir.metrics_file)
    assert {line["phase"] for line in recorder.lines} == {"validation", "final"}
    selected = run.result["validation"]["selected_step"]
    assert recorder.phases == [("validation", selected), ("final", run.result["selected_step"])]


def test_what_train_returns_is_the_opened_run(in_a_thread: tuple[dedn_jax.Run, Recorder]) -> None:
    run, _ = in_a_thread
    opened = dedn_jax.open_run(run.workdir.path)
    assert opened.result == run.result
    assert opened.evaluate() == run.evaluate() == run.result["test"]
    for a, b in zip(jax.tree.leaves(opened.params), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b)
    images = run.dataset.inputs[run.dataset.test_unseen[:3]]
    found, expected = opened.model(images), run.model(images)
    np.testing.assert_array_equal(found.coarse.region, expected.coarse.region)
    assert found.coarse.region.shape == (3, run.dataset.num_attributes)


def test_a_request_to_stop_saves(
    data: Path, tmp_path: Path, in_a_thread: tuple[dedn_jax.Run, Recorder]
) -> None:
    """And goes on to the same bits, of both experts: other interrupted runs have one network."""

    class Stop(dedn_jax.Callback):
        def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
            if step == 4:
                stop.request(signal.SIGINT)

    config, path, stop = tiny_config(data, **FIELDS), tmp_path / "run", dedn_jax.StopRequest()
    with pytest.raises(dedn_jax.Interrupted, match=r"phase validation") as caught:
        dedn_jax.train(config, path, callbacks=[Stop()], stop=stop)
    assert caught.value.signal_number == signal.SIGINT
    undisturbed, recorder = in_a_thread
    assert 4 <= max(line["step"] for line in read_lines(path / "metrics.jsonl")) <= 7
    assert dedn_jax.train(config, path).result == undisturbed.result
    assert read_lines(path / "metrics.jsonl") == recorder.lines
    expected = arrays(undisturbed.workdir.path)
    for name, found in arrays(path).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_an_error_in_a_callback_ends_the_training(data: Path, tmp_path: Path) -> None:
    class Fails(dedn_jax.Callback):
        def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    config = tiny_config(data, **FIELDS)
    with pytest.raises(KeyboardInterrupt):
        dedn_jax.train(config, tmp_path / "run", callbacks=[Fails()])
    assert not (tmp_path / "run" / "validation" / "result.json").exists()
    with dedn_jax.open_run(tmp_path / "run").workdir.locked():
        pass  # nobody holds it any more


def test_signals_ask_to_stop_only_while_they_are_listened_to() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop = StopOnSignals()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": None}, "config of type NoneType, expected what dedn_jax.load_config gives"),
        ({"config": {"train": {}}}, "config of type dict, expected what dedn_jax.load_config"),
        ({"dataset": {}}, "dataset of type dict, expected a dedn_jax.GZSLDataset or None"),
        ({"callbacks": Recorder()}, "callbacks of type Recorder, expected a list of callbacks"),
        ({"callbacks": [Recorder]}, r"callbacks\[0\] of type type, expected an object of a class"),
        ({"stop": True}, "stop of type bool, expected a dedn_jax.StopRequest or None"),
        ({"workdir": None}, "workdir of type NoneType, expected the path of a work directory"),
    ],
)
def test_arguments_of_a_wrong_type(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Nothing is made for them."""
    given = {"config": tiny_config(tmp_path / "none.hdf5"), "workdir": tmp_path / "run"}
    with pytest.raises(dedn_jax.InputError, match=f"^{message}"):
        dedn_jax.train(**given | arguments)
    assert not list(tmp_path.iterdir())
    if "dataset" in arguments:
        with pytest.raises(dedn_jax.InputError, match=f"^{message}"):
            dedn_jax.open_run(tmp_path, **arguments)
    with pytest.raises(dedn_jax.InputError, match=r"^path of type NoneType, expected the path of"):
        dedn_jax.open_run(None)  # type: ignore[arg-type]
