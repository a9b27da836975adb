"""A tiny data set, and a sweep of it that most tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dedn_jax.sweep.run import run_sweep
from tests.helpers.shared import copied, made_once, shared_folder
from tests.helpers.tiny import tiny_config, write_tiny
from tests.sweep.common import FIELDS, GRID, SEEDS


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "sweep")


@pytest.fixture(scope="package")
def data(shared: Path) -> Path:
    path = shared / "tiny.hdf5"
    made_once(path, lambda path: str(write_tiny(path)))
    return path


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="package")
def config(data: Path) -> ConfigDict:
    return tiny_config(data, **FIELDS)


@pytest.fixture(scope="package")
def swept(config: ConfigDict, shared: Path, runs: Path) -> Path:
    """Three seeds by all protocols; a copy."""
    path = runs / "swept"
    copied(shared / "swept", lambda folder: run_sweep(config, folder, SEEDS, GRID), path)
    return path
