"""A run that is carried on ends where one ends that was begun for as long."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli import main as cli
from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.inference.run import open_run, train
from tests.helpers.tiny import EPOCHS, ONE_NETWORK, arrays, light_config
from tests.training.common import DieAfter, Finished


def _same(found: Path, wanted: Path) -> None:
    assert read_json(found / "result.json") == read_json(wanted / "result.json")
    there, expected = arrays(found), arrays(wanted)
    for name in expected:
        np.testing.assert_array_equal(there[name], expected[name], err_msg=name)


@pytest.mark.parametrize("refit", ["retrain", pytest.param("continue", marks=pytest.mark.slow)])
def test_it_ends_as_a_longer_run_does(
    refit: str,
    data: Path,
    finished: Callable[..., Finished],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = {"selection__refit": refit}
    if refit == "continue":
        train(light_config(data, **fields), tmp_path / "long")
        long = tmp_path / "long"
    else:
        long = finished("validation", **ONE_NETWORK).path
    run = tmp_path / "run"
    short = train(light_config(data, train__epochs=EPOCHS // 2, **fields), run).result
    capsys.readouterr()
    with pytest.raises(RuntimeError, match="killed"):
        train(light_config(data, **fields), run, stop=DieAfter(3))
    said = capsys.readouterr().err
    assert f"dedn: {run}: carried on from {EPOCHS // 2} to {EPOCHS} epochs; its result" in said
    assert read_json(run / f"result-{EPOCHS // 2}-epochs.json") == short
    with pytest.raises(InputError, match="the run is not finished"):
        open_run(run).result  # noqa: B018
    train(light_config(data, **fields), run)
    _same(run, long)
    assert open_run(run).config.train.epochs == EPOCHS


def test_its_config_may_come_from_itself(
    data: Path, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(light_config(data, train__epochs=5, selection__protocol="last"), run)
    command = ["train", f"--config={run}/config.json", f"--workdir={run}"]
    assert cli.main([*command, f"--config.train.epochs={EPOCHS}"]) == 0
    _same(run, finished("last", **ONE_NETWORK).path)
    assert cli.main(command) == 0  # shows the result
    assert load_config(run / "config.json").train.epochs == EPOCHS


def test_what_cannot_be_carried_on(
    finished: Callable[..., Finished], data: Path, tmp_path: Path
) -> None:
    whole = finished("last", **ONE_NETWORK)
    run = shutil.copytree(whole.path, tmp_path / "run")
    before = read_json(run / "result.json")
    fewer = light_config(data, selection__protocol="last", train__epochs=EPOCHS - 1)
    with pytest.raises(InputError, match=rf"train.epochs={EPOCHS} there, {EPOCHS - 1} now"):
        train(fewer, run)
    other = light_config(data, selection__protocol="last", train__epochs=30, seed=1)
    with pytest.raises(InputError, match=r"another config \(seed=0 there, 1 now\)"):
        train(other, run)
    cosine = {"optimizer__schedule": "cosine", "selection__protocol": "last"}
    train(light_config(data, train__epochs=2, **cosine), tmp_path / "cosine")
    with pytest.raises(InputError, match=r"a run of 2 epochs, over which .*--config.train.init_f"):
        train(light_config(data, train__epochs=3, **cosine), tmp_path / "cosine")
    assert read_json(run / "result.json") == before
