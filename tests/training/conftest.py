"""A tiny data set, and runs on it that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dedn_jax.inference.run import train
from dedn_jax.training.logs import read_lines
from tests.helpers.shared import copied, made_once, shared_folder
from tests.helpers.tiny import tiny_config, write_tiny
from tests.training.common import Finished


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "training")


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    path = shared / "tiny.hdf5"
    made_once(path, lambda path: str(write_tiny(path)))
    return path


@pytest.fixture(scope="session")
def finished(
    data: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Finished]:
    """`finished(protocol, **fields)` is a copy of a run that all tests and workers share."""
    runs: dict[str, Finished] = {}

    def get(protocol: str, **fields: object) -> Finished:
        name = "-".join([protocol, *(f"{field}_{value}" for field, value in fields.items())])
        if name not in runs:
            path = tmp_path_factory.mktemp("runs") / name
            config = tiny_config(data, selection__protocol=protocol, **fields)
            result = copied(shared / name, lambda folder: train(config, folder).result, path)
            runs[name] = Finished(path, config, result, read_lines(path / "metrics.jsonl"))
        return runs[name]

    return get
