"""Processes that share nothing but a bucket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.run import open_run
from tests.buckets.test_storage import opened
from tests.made_up import published_file

pytestmark = pytest.mark.moto
FLAGS = [
    "--config=base",
    "--config.train.epochs=20",
    "--config.train.batch_size=10",
    "--config.train.checkpoint_every=4",
    "--config.train.log_every=1",
    "--config.data.groups=0;1-3;4-5",
    "--config.data.path=f.hdf5",
]


def start(address: str, folders: list[Path]) -> list[subprocess.Popen]:
    """A process in each folder, which is all of the disk that it uses."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    joined = [f"--coordinator=localhost:{port}", f"--processes={len(folders)}"]
    root = Path(__file__).resolve().parent.parent.parent
    return [
        subprocess.Popen(
            [sys.executable, "-m", "dedn_jax", "train", f"--workdir={address}", *FLAGS, *joined]
            + [f"--process={number}"],
            cwd=folder,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, folder in enumerate(folders)
    ]


def finished(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]


def test_killed_and_resumed(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        (folder / "tmp").mkdir(parents=True)
        published_file(folder / "f.hdf5")
    bucket, prefix = opened(address)
    processes = start(address, folders)

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
    others = [tmp_path / "third", tmp_path / "fourth"]
    for folder, old in zip(others, folders, strict=True):
        (folder / "tmp").mkdir(parents=True)
        (old / "f.hdf5").rename(folder / "f.hdf5")
    finished(start(address, others))
    assert all(not list((folder / "tmp").glob("dedn*")) for folder in others)
    monkeypatch.chdir(others[0])
    assert main(["train", "--workdir=local", *FLAGS]) == 0
    alone = open_run("local")
    result = json.loads(bucket.read(f"{prefix}result.json"))
    assert result["test"] == alone.result["test"]
    for mine, theirs in zip(
        jax.tree.leaves(open_run(address).params), jax.tree.leaves(alone.params), strict=True
    ):
        scale = np.abs(theirs).max()
        assert np.abs(np.asarray(mine) - np.asarray(theirs)).max() <= 1e-4 * scale
    finished(start(address, others))  # shows the result
