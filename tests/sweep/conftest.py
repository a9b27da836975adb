"""A tiny data set, and a sweep of it that most tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from dedn_jax.sweep.run import sweep
from tests.helpers.tiny import tiny_config, write_tiny
from tests.sweep.common import FIELDS, GRID, SEEDS


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all runs, which then share the programs compiled beside them."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.1)
    yield tmp_path_factory.mktemp("runs")
    jax.config.update(name, before)


@pytest.fixture(scope="package")
def config(data: Path) -> ConfigDict:
    return tiny_config(data, **FIELDS)


@pytest.fixture(scope="package")
def swept(config: ConfigDict, runs: Path) -> Path:
    """Three seeds by all protocols."""
    path = runs / "swept"
    sweep(config, path, SEEDS, GRID)
    return path
