"""Data sets without test images of seen classes: U and T1 are measured, S, H and AUSUC are not."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.report.write import write_report
from dedn_jax.inference.run import train
from dedn_jax.training.result_file import read_result
from tests.helpers.tiny import tiny_config, write_tiny


@pytest.fixture(scope="module", params=["missing", "empty"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")
    with h5py.File(path, "a") as data:
        del data["test_seen_loc"]
        if request.param == "empty":
            data["test_seen_loc"] = np.zeros(0, np.int64)
    return path


def test_it_is_trained_on_and_reported(file: Path, tmp_path: Path) -> None:
    config = tiny_config(
        file, selection__protocol="test-best", selection__metric="t1", train__epochs=2
    )
    run = train(config, tmp_path / "run")
    fused = run.result["test"]["fused"]
    assert fused.keys() == {"U", "T1"}
    assert fused["T1"] == run.result["test_best_t1"]["T1"]
    assert read_result(tmp_path / "run" / "result.json") == run.result
    page = write_report(run, tmp_path / "report").read_text()
    assert f"<dt>T1 (test-best)</dt><dd>{fused['T1']:.1f}</dd>" in page
    assert "<dt>H (test-best)</dt><dd>–</dd>" in page


@pytest.mark.parametrize("metric", ["harmonic_mean", "ausuc"])
def test_it_cannot_select_by_what_is_not_measured(file: Path, tmp_path: Path, metric: str) -> None:
    config = tiny_config(file, selection__protocol="test-best", selection__metric=metric)
    with pytest.raises(InputError, match=f"selection.metric={metric} .*set the metric to t1"):
        train(config, tmp_path / "run")


def test_something_must_be_there_to_test(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.hdf5")
    with h5py.File(path, "a") as data:
        for name in ("test_seen_loc", "test_unseen_loc"):
            del data[name]
            data[name] = np.zeros(0, np.int64)
    with pytest.raises(InputError, match="test_unseen_loc has shape"):
        train(tiny_config(path), tmp_path / "run")
