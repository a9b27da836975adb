"""Interrupted or failed runs, streamed or resident, resume and end as undisturbed ones do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from dedn_jax.inference.run import train
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.evaluation import EXPERTS
from dedn_jax.training.interrupt import Interrupted
from dedn_jax.training.logs import read_lines
from tests.helpers.disks import unmounted_at
from tests.helpers.tiny import ONE_NETWORK, arrays, light_config
from tests.training.common import DieAfter, Finished, StopAfter


def test_stopped_within_evaluations(
    data: Path,
    tmp_path: Path,
    finished: Callable[..., Finished],
) -> None:
    """They are not waited for: a run that goes on evaluates first, and ends as if undisturbed."""
    expected = finished("test-best", **ONE_NETWORK)  # before signals are made up
    path = tmp_path / "run"
    assert [r["step"] for r in expected.lines if "evaluated_on" in r][:2] == [4, 8]
    assert expected.result["steps"] == 80
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


@pytest.mark.parametrize("protocol", [pytest.param("test-best", marks=pytest.mark.slow), "last"])
def test_maps_on_the_device_change_nothing(
    data: Path,
    tmp_path: Path,
    finished: Callable[..., Finished],
    protocol: str,
) -> None:
    """Batches drawn there, several steps a call, interrupted and gone on with other calls."""
    streamed = finished(protocol, **ONE_NETWORK)  # before signals are made up
    path = tmp_path / "run"
    done = []
    for most, looks in ((3, 3), (32, 2), (3, 0)):
        fields = {"selection__protocol": protocol, "train__steps_per_call": most}
        config = light_config(data, data__on_device="replicated", **fields)
        with contextlib.suppress(Interrupted):
            train(config, path, stop=StopAfter(looks))
        done.append(max(r["step"] for r in read_lines(path / "metrics.jsonl")))
    # Calls of at most 3, then 32, then 3 again, which end where something is due.
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


def test_a_loss_that_is_not_finite(data: Path, tmp_path: Path) -> None:
    """It stops with the step and the terms; what was saved is sound, and the run can go on."""
    fields: dict[str, object] = {"selection__protocol": "last", "train__epochs": 6}
    config = light_config(data, **fields)
    train(config, tmp_path / "undisturbed")
    expected = arrays(tmp_path / "undisturbed")
    for log_every, checkpoint_every in ((1, 5), (7, 3)):
        config.train.log_every, config.train.checkpoint_every = log_every, checkpoint_every
        path = tmp_path / f"logged every {log_every}"
        dataset = load_dataset(config)
        spoiled = Spoiled(dataset.inputs, 12, good=11)
        with pytest.raises(
            FloatingPointError, match=r"phase final, step 1\d: .*loss.* not finite; the checkpoints"
        ):
            train(config, path, dataset=dataclasses.replace(dataset, inputs=spoiled))
        assert not (path / "result.json").exists()
        assert not (path / "final" / "result.json").exists()
        saved = (path / "final" / "checkpoints").iterdir()
        assert [p for p in saved if p.name.isdigit()]
        # With sound features the run goes on from there, and ends where an undisturbed one does.
        train(config, path)
        found = arrays(path)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
def test_a_file_system_that_is_unmounted_during_a_checkpoint(
    finished: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoint comes to the folder below: it does not count, and the run does not go on."""
    path, expected = tmp_path / "run", finished("last", **ONE_NETWORK)
    assert expected.result["steps"] == 80
    # As it stops, within, and the last; each time it goes on from the checkpoint before.
    for at, before, stop in ((30, 20, StopAfter(30)), (40, 20, None), (80, 60, None)):
        with unmounted_at(at, path, monkeypatch):
            train(expected.config, path, stop=stop)
        saved = (path / "final" / "checkpoints").iterdir()
        assert max(int(p.name) for p in saved if p.name.isdigit()) == before
    assert train(expected.config, path).result == expected.result


def test_a_work_directory_that_goes_away(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """Moved by hand, or its file system unmounted: nothing is written beside what was there."""
    path, away, expected = tmp_path / "run", tmp_path / "away", finished("last", **ONE_NETWORK)

    class TakeAway(Callback):
        def __init__(self, after: int, instead: str) -> None:
            self._after, self._instead = after, instead

        def on_call_end(self, first: int, last: int, metrics: Any) -> None:
            if first <= self._after + 5 <= last:
                while not (path / "final" / "checkpoints" / str(self._after)).exists():
                    time.sleep(0.01)  # it is written in the background
                path.rename(away)
                if self._instead == "an empty folder":
                    path.mkdir()

    for after, instead in ((20, "nothing"), (40, "an empty folder")):
        with pytest.raises(InputError, match=r"run: not there any more: moved, removed or unmount"):
            train(expected.config, path, callbacks=[TakeAway(after, instead)])
        assert path.exists() == (instead == "an empty folder")
        if path.exists():
            assert not any(path.iterdir())
            path.rmdir()
        away.rename(path)
    assert train(expected.config, path).result == expected.result
    assert read_lines(path / "metrics.jsonl") == expected.lines
