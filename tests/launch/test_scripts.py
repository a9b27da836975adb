"""All launch scripts: bash that shellcheck accepts, and a help text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.common import LAUNCH, ROOT, launch

SCRIPTS = sorted(LAUNCH.glob("*.sh"))

# The environment's own first: its programs need not be on the path.
SHELLCHECK = shutil.which(
    "shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
COMMANDS = [s for s in SCRIPTS if s.name not in ("common.sh", "tpu_watch.sh")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck")
def test_shellcheck() -> None:
    result = subprocess.run(
        [str(SHELLCHECK), "-x", "-P", "SCRIPTDIR", *map(str, SCRIPTS)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_help(script: Path) -> None:
    result = launch(script.name, "--help")
    assert result.returncode == 0
    assert f"  launch/{script.name} " in result.stdout
    assert "--dry-run" in result.stdout
    assert "set -euo pipefail" not in result.stdout


def test_dockerfile_copies_what_installation_reads() -> None:
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [w for line in lines if line.startswith("COPY ") for w in line.split()[1:-1]]
    assert {"setup.py", "pyproject.toml", "requirements.txt", "README.md"} <= set(copied)
    assert {"dedn_jax", "configs"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    sent = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(sent)
