"""Runs whose work directory is in a bucket."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.buckets import mirror
from dedn_jax.cli.main import main
from dedn_jax.config import load_config
from dedn_jax.inference.run import open_run
from tests.buckets.test_storage import opened
from tests.helpers.forks import Forked
from tests.helpers.tiny import ONE_NETWORK_FLAGS
from tests.made_up import published_file

pytestmark = pytest.mark.moto
FLAGS = [
    "--config=base",
    "--config.train.epochs=4",
    "--config.train.batch_size=10",
    "--config.train.checkpoint_every=5",
    "--config.train.log_every=1",
    "--config.train.evaluate_every=10",
    *ONE_NETWORK_FLAGS,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--config.data.path={published_file(tmp_path_factory.mktemp('data') / 'f.hdf5')}"


@pytest.fixture(scope="module")
def local(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on this machine."""
    folder = tmp_path_factory.mktemp("local") / "run"
    assert main(["train", f"--workdir={folder}", *FLAGS, data]) == 0
    return folder


def parameters(path: Path | str) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(open_run(path).params)]


def losses(text: bytes) -> list[dict]:
    return [json.loads(line) for line in text.decode().splitlines()]


def test_as_on_this_machine(
    address: str, data: str, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", f"--workdir={address}", *FLAGS, data]
    assert main(command) == 0
    bucket, prefix = opened(address)
    assert json.loads(bucket.read(f"{prefix}result.json")) == json.loads(
        (local / "result.json").read_text()
    )
    keys = {"phase", "step", "loss"}
    mine, theirs = (
        [{k: line[k] for k in keys & line.keys()} for line in losses(text)]
        for text in (bucket.read(f"{prefix}metrics.jsonl"), (local / "metrics.jsonl").read_bytes())
    )
    assert mine == theirs
    names = {name.removeprefix(prefix) for name in bucket.objects(prefix, 1000)}
    assert {"config.json", "dataset.json", "final/selected/_CHECKPOINT_METADATA"} <= names
    assert any(name.startswith("tensorboard/final/") for name in names)
    assert not any("tmp" in name for name in names)
    # From another machine, which has nothing of it.
    mirror._mirrors.clear()
    for mine, theirs in zip(parameters(address), parameters(local), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    capsys.readouterr()
    for command in (["evaluate"], ["report"]):
        assert main([*command, f"--workdir={address}"]) == 0
    outputs = [f"--json={address} numbers.json", f"--scores={address} scores.npz"]
    assert main(["evaluate", f"--workdir={address}", *outputs]) == 0
    export = ["export", f"--workdir={address}", "--format=safetensors"]
    assert main([*export, f"--out={address}/m.safetensors"]) == 0
    found = json.loads(bucket.read(f"{prefix[:-1]} numbers.json"))["test"]
    assert found == json.loads((local / "result.json").read_text())["test"]
    assert bucket.read(f"{prefix[:-1]} scores.npz").startswith(b"PK")
    printed = capsys.readouterr().out
    assert f"Wrote {address}/m.safetensors" in printed
    assert f"Scores: {address} scores.npz" in printed
    assert f"Report: {address}/report/index.html" in printed
    # A run's config from there; an output never destroys a run.
    config = load_config(f"{address}/config.json").to_dict()
    assert config == load_config(str(local / "config.json")).to_dict()
    assert main(["evaluate", f"--workdir={address}", f"--json={address}/result.json"]) == 2
    assert f"result.json belongs to the run in {address}" in capsys.readouterr().err
    assert b"<html" in bucket.read(f"{prefix}report/index.html")
    assert main(["evaluate", f"--workdir={address}", "--config.seed=3"]) == 2
    assert f"dedn: {address}/config.json: config.seed is fixed" in capsys.readouterr().err


def start(address: str, data: str, temporary: Path, *flags: str) -> Forked:
    temporary.mkdir(exist_ok=True)
    job = ["-m", "dedn_jax", "train", f"--workdir={address}", *FLAGS, data, *flags]
    return Forked(*job, TMPDIR=str(temporary))


@pytest.mark.parametrize(
    "address", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_killed_at_any_time(
    address: str, data: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, prefix = opened(address)

    def uploaded() -> list[object]:
        return [bucket.objects(f"{prefix}{phase}", 1000) for phase in ("validation", "final")]

    times, killed = random.Random(0), 0
    for number in range(3):
        before = uploaded()
        process = start(address, data, tmp_path / str(number))
        # It has begun to upload something new.
        while process.poll() is None and uploaded() == before:
            time.sleep(0.05)
        time.sleep(times.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed  # a quick machine may have finished by the third time
    process = start(address, data, tmp_path / "last")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(bucket.read(f"{prefix}result.json")) == json.loads(
        (local / "result.json").read_text()
    )
    lines = losses(bucket.read(f"{prefix}metrics.jsonl"))
    steps = [(line["phase"], line["step"]) for line in lines if "loss" in line]
    assert len(steps) == len(set(steps))
    assert not list((tmp_path / "last").iterdir())


def test_another_run_there(
    address: str, data: str, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket, prefix = opened(address)
    for name in ("config.json", "dataset.json"):
        bucket.write(f"{prefix}{name}", (local / name).read_bytes())
    assert main(["train", f"--workdir={address}", *FLAGS, data, "--config.seed=3"]) == 2
    printed = capsys.readouterr().err
    assert f"dedn: --workdir: {address} holds a run of another config (seed=0 there" in printed
