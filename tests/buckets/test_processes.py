"""Processes that share nothing but a bucket."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.run import open_run
from dedn_jax.training.logs import read_lines
from tests.buckets.test_storage import opened
from tests.helpers.devices import process_flags, xla_flags
from tests.helpers.forks import Forked
from tests.helpers.tiny import ONE_NETWORK_FLAGS
from tests.made_up import picture_folder, prepared_folder, published_file
from tests.parallel.test_jobs import PICTURES

pytestmark = pytest.mark.moto
GOOGLE = pytest.mark.parametrize("address", ["gs"], indirect=True)
FLAGS = [
    "--config=base",
    "--config.train.epochs=8",
    "--config.train.batch_size=10",
    "--config.train.checkpoint_every=4",
    "--config.train.log_every=1",
    *ONE_NETWORK_FLAGS,
    "--config.data.path=f.hdf5",
]
# In one process, the devices of two.
TWO_DEVICES = {"XLA_FLAGS": xla_flags(2, quick=False)}


def machines(parent: Path, *names: str) -> list[Path]:
    """Folders, each of which is all of the disk that a process uses."""
    folders = [parent / name for name in names]
    for folder in folders:
        (folder / "tmp").mkdir(parents=True)
        published_file(folder / "f.hdf5")
    return folders


def start(folder: Path, *job: str, **environment: str) -> Forked:
    own = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
    everything = {"XLA_FLAGS": xla_flags(quick=False), **own, **environment}
    return Forked("-m", "dedn_jax", *job, folder=folder, **everything)


def start_all(folders: list[Path], *job: str) -> list[Forked]:
    """A job by a process in each folder."""
    flags = process_flags(len(folders))
    return [start(folder, *job, *own) for folder, own in zip(folders, flags, strict=True)]


def finished(processes: list[Forked]) -> list[list[str]]:
    """The lines that each printed, once all have ended well."""
    printed = []
    for process in processes:
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors[-3000:]
        printed.append([line for line in output.splitlines() if "[Gloo]" not in line])
    return printed


@pytest.mark.slow
def test_killed_and_resumed(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = machines(tmp_path, "first", "second")
    bucket, prefix = opened(address)
    job = ["train", f"--workdir={address}", *FLAGS]
    processes = start_all(folders, *job)

    def checkpoints() -> list[str]:
        found = bucket.objects(f"{prefix}validation/checkpoints/", 1000)
        return [name for name in found if name.endswith("_CHECKPOINT_METADATA")]

    while all(p.poll() is None for p in processes) and not checkpoints():
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    said = [process.communicate()[1][-2000:] for process in processes]
    assert checkpoints(), said
    # Other machines, which have nothing of it.
    others = machines(tmp_path, "third", "fourth", "alone")
    alone = others.pop()
    finished(start_all(others, *job))
    assert all(not list((folder / "tmp").glob("dedn*")) for folder in others)
    finished([start(alone, "train", "--workdir=local", *FLAGS, **TWO_DEVICES)])
    monkeypatch.chdir(alone)  # where the config's data are
    run, expected = open_run(address), open_run("local")
    assert run.result == expected.result
    assert read_lines(run.workdir.metrics_file) == read_lines(expected.workdir.metrics_file)
    for mine, theirs in zip(
        jax.tree.leaves(run.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
@GOOGLE
def test_carried_on_and_evaluated(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of one process that was copied to the bucket; no process goes on from its result."""
    first, second = machines(tmp_path, "first", "second")
    monkeypatch.chdir(first)
    flags = [*FLAGS, "--config.selection.protocol=last"]
    assert main(["train", "--workdir=local", *flags]) == 0
    bucket, prefix = opened(address)
    local = first / "local"
    for file in filter(Path.is_file, local.rglob("*")):
        bucket.write(f"{prefix}{file.relative_to(local).as_posix()}", file.read_bytes())
    more = [flag.replace("epochs=8", "epochs=9") for flag in flags]
    printed = finished(start_all([first, second], "train", f"--workdir={address}", *more))
    assert len(printed[0]) > 3 and not printed[1]
    result = json.loads(bucket.read(f"{prefix}result.json"))
    assert result["steps"] > json.loads((local / "result.json").read_text())["steps"]
    evaluate = ["evaluate", f"--workdir={address}", "--config.data.path=f.hdf5"]
    numbers = f"--json={address}-numbers.json"
    finished(start_all([first, second], *evaluate, numbers))
    found = json.loads(bucket.read(f"{prefix[:-1]}-numbers.json"))["test"]
    assert found["fused"]["H"] == pytest.approx(result["test"]["fused"]["H"])


@pytest.mark.slow
@GOOGLE
def test_sweep(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models sharded over the processes: no process has all of them."""
    flags = [*FLAGS, "--seeds=2", "--config.train.epochs=2", "--config.train.balanced=false"]
    flags.append("--config.selection.protocol=last")
    first, second = machines(tmp_path, "first", "second")
    job = ["sweep", f"--workdir={address}", *flags]
    printed = finished(start_all([first, second], *job))
    assert len(printed[0]) > 2 and not printed[1]
    monkeypatch.chdir(first)
    assert main(["sweep", "--workdir=local", *flags]) == 0
    bucket, prefix = opened(address)
    result = json.loads((first / "local" / "result.json").read_text())
    assert json.loads(bucket.read(f"{prefix}result.json")) == result
    assert bucket.read(f"{prefix}sweep.png").startswith(b"\x89PNG")


@GOOGLE
def test_one_of_them_is_told_another_place(address: str, tmp_path: Path) -> None:
    folders = machines(tmp_path, "first", "second")
    job = ["train", *FLAGS, "--join-timeout=120"]
    workdirs = (address, "run")
    processes = [
        start(folder, *job, *own, f"--workdir={workdir}")
        for folder, workdir, own in zip(folders, workdirs, process_flags(2), strict=True)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 2
        last = errors.strip().splitlines()[-1]
        assert "differ in the work directory" in last and f"not {address}" in last


@GOOGLE
def test_predict_to_a_bucket(address: str, tmp_path: Path) -> None:
    """Each writes a part of its own there, and process 0 joins them."""
    data = f"--config.data.path={prepared_folder(tmp_path)}"
    run, pictures = tmp_path / "run", picture_folder(tmp_path / "pictures", 1)
    assert main(["train", f"--workdir={run}", data, *PICTURES]) == 0
    job = ["predict", f"--workdir={run}", str(pictures), "--top=2"]
    outputs = [f"--json={address}/p.json", f"--csv={address}/p.csv"]
    finished(start_all(machines(tmp_path, "first", "second"), *job, *outputs))
    assert main([*job, f"--json={tmp_path / 'p.json'}"]) == 0
    bucket, prefix = opened(address)
    assert set(bucket.objects(prefix, 10)) == {f"{prefix}p.csv", f"{prefix}p.json"}
    expected = json.loads((tmp_path / "p.json").read_text())["pictures"]
    found = json.loads(bucket.read(f"{prefix}p.json"))["pictures"]
    assert [one["picture"] for one in found] == [one["picture"] for one in expected]
    assert bucket.read(f"{prefix}p.csv").count(b"\n") == 1 + 2 * len(expected)
