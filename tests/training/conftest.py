"""A tiny data set, and runs on it that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dedn_jax.inference.run import train
from dedn_jax.training.logs import read_lines
from tests.helpers.tiny import tiny_config, write_tiny
from tests.training.common import Finished


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny.hdf5")


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """`finished(protocol)` trains once per protocol."""
    runs: dict[str, Finished] = {}

    def get(protocol: str) -> Finished:
        if protocol not in runs:
            path = tmp_path_factory.mktemp("runs") / protocol
            config = tiny_config(data, selection__protocol=protocol)
            result = train(config, path).result
            runs[protocol] = Finished(path, config, result, read_lines(path / "metrics.jsonl"))
        return runs[protocol]

    return get
