"""The launch scripts: what they would run, and when they start a training again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "launch" / "resume.sh"


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture
def fake_dedn(tmp_path: Path) -> Path:
    """A `dedn` that ends with the statuses listed in the file `statuses`, one a start."""
    script = tmp_path / "dedn"
    script.write_text(
        f"""#!/usr/bin/env bash
echo "$@" >> {tmp_path}/calls
status=$(head -n 1 {tmp_path}/statuses)
sed -i 1d {tmp_path}/statuses
exit "$status"
"""
    )
    script.chmod(0o755)
    return tmp_path


def test_dry_run_prints_the_command() -> None:
    result = run("--dry-run", "--attempts=3", "--", "--config=cub_gzsl", "--workdir=my runs/cub")
    assert result.returncode == 0
    assert result.stdout == "up to 3 times: dedn train --config=cub_gzsl --workdir=my\\ runs/cub\n"


def test_starts_again_after_signals_until_the_end(fake_dedn: Path) -> None:
    (fake_dedn / "statuses").write_text("143\n137\n130\n0\n")
    result = run("--", "--config=x", "--workdir=y", path=fake_dedn)
    assert result.returncode == 0
    assert (fake_dedn / "calls").read_text() == "train --config=x --workdir=y\n" * 4


@pytest.mark.parametrize(
    ("statuses", "attempts", "expected", "calls"),
    [("2\n0\n", "5", 2, 1), ("143\n143\n143\n", "2", 1, 2), ("143\n1\n", "5", 1, 2)],
)
def test_gives_up(fake_dedn: Path, statuses: str, attempts: str, expected: int, calls: int) -> None:
    (fake_dedn / "statuses").write_text(statuses)
    result = run(f"--attempts={attempts}", "--", "--workdir=y", path=fake_dedn)
    assert result.returncode == expected
    assert len((fake_dedn / "calls").read_text().splitlines()) == calls


@pytest.mark.parametrize("arguments", [(), ("--",), ("--attempts=0", "--", "x"), ("--what",)])
def test_refuses_bad_arguments(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("resume.sh: ")
