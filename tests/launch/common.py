"""Runs the launch scripts, without environment variables that the developer may have set."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
PLACE = ("--name=dedn", "--zone=us-west4-a", "--project=my-project")
POD = (*PLACE, "--type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite")
TRAIN = ("--", "--config=cub_gzsl", "--workdir=/mnt/shared/runs/cub")


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(fakes: Path | None = None, **more: str) -> dict[str, str]:
    left_out = {"DEDN", "DEDN_STATE", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"}
    left_out |= {"SLURM_RESTART_COUNT"}
    values = {k: v for k, v in os.environ.items() if k not in left_out}
    if fakes:
        values["PATH"] = f"{fakes}:{values['PATH']}"
    return values | more


def launch(
    script: str,
    *arguments: str,
    fakes: Path | None = None,
    folder: Path = LAUNCH,
    seconds: float = 180,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(folder / script), *arguments],
        capture_output=True,
        text=True,
        env=environment(fakes, **more),
        stdin=subprocess.DEVNULL,
        timeout=seconds,
    )


def calls(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(what: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
