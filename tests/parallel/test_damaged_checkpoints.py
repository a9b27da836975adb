"""A newest checkpoint that is damaged: all processes go on from the same one before it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.files import read_json
from dedn_jax.training.logs import read_lines
from tests.helpers.damage import cut, flip
from tests.made_up import published_file
from tests.parallel.test_processes import FLAGS, finish, parameters, start_several

LAST, BEFORE = 54, 50  # of the checkpoints that are kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run of two processes, and its flags."""
    folder = tmp_path_factory.mktemp("two")
    flags = [*FLAGS, f"--config.data.path={published_file(folder / 'features.hdf5')}"]
    finish(*start_several(folder / "run", flags, 2))
    return folder / "run", flags


@pytest.mark.parametrize("damage", [cut, flip])
def test_two_processes(
    damage: Callable[[Path], None], undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    whole, flags = undisturbed
    run = shutil.copytree(whole, tmp_path / "run")
    for result in (run / "result.json", run / "final" / "result.json"):
        result.unlink()  # as of a run that died before its end
    damaged = run / "final" / "checkpoints" / str(LAST)
    damage(damaged)
    first, second = start_several(run, flags, 2)
    errors = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], errors
    said = [line for line in errors[0].splitlines() if "damaged" in line]
    assert len(said) == 1, errors[0]
    assert f"dedn: {damaged}: damaged (" in said[0]
    assert "damaged" not in errors[1]  # once is enough
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == [*range(1, LAST + 1)]
    assert read_json(run / "result.json") == read_json(whole / "result.json")
    assert read_lines(run / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")
    for found, wanted in zip(parameters(run), parameters(whole), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert damaged.is_dir() and (damaged.parent / str(BEFORE)).is_dir()  # written again
