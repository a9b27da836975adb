"""A newest checkpoint that is damaged: all processes go on from the same one before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.files import read_json
from dedn_jax.training.logs import read_lines
from tests.helpers.damage import cut, flip
from tests.helpers.jobs import do_jobs
from tests.made_up import published_file
from tests.parallel.test_processes import FLAGS, parameters

LAST, BEFORE = 27, 20  # of the checkpoints that are kept


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    whole, runs = tmp_path / "whole", [tmp_path / "cut", tmp_path / "flipped"]
    data = f"--config.data.path={published_file(tmp_path / 'features.hdf5')}"
    flags = [*FLAGS, data, "--config.train.checkpoint_every=10"]
    do_jobs(["train", f"--workdir={whole}", *flags], processes=2)
    for run, damage in zip(runs, (cut, flip), strict=True):
        shutil.copytree(whole, run)
        for result in (run / "result.json", run / "final" / "result.json"):
            result.unlink()  # as of a run that died before its end
        damage(run / "final" / "checkpoints" / str(LAST))
    jobs = [["train", f"--workdir={run}", *flags] for run in runs]
    (_, first), (_, second) = do_jobs(*jobs, processes=2)
    said = [line for line in first.splitlines() if "damaged" in line]
    assert len(said) == len(runs), first
    assert "damaged" not in second  # once is enough
    for run, line in zip(runs, said, strict=True):
        damaged = run / "final" / "checkpoints" / str(LAST)
        assert f"dedn: {damaged}: damaged (" in line
        steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
        assert steps == [*range(1, LAST + 1)]
        assert read_json(run / "result.json") == read_json(whole / "result.json")
        assert read_lines(run / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")
        for found, wanted in zip(parameters(run), parameters(whole), strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert damaged.is_dir() and (damaged.parent / str(BEFORE)).is_dir()  # written again
