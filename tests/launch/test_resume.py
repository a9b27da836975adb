"""`launch/resume.sh`: when it starts `dedn train` again, and when it gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.common import launch, write_program


@pytest.fixture
def fake_dedn(tmp_path: Path) -> Path:
    """A `dedn` that ends with the statuses listed in the file `statuses`, one a start."""
    write_program(
        tmp_path / "dedn",
        f"""#!/usr/bin/env bash
echo "$@" >> {tmp_path}/calls
status=$(head -n 1 {tmp_path}/statuses)
sed -i 1d {tmp_path}/statuses
exit "$status"
""",
    )
    return tmp_path


def test_resume_dry_run() -> None:
    arguments = ("--attempts=3", "--", "--config=cub_gzsl", "--workdir=my runs/cub")
    result = launch("resume.sh", "--dry-run", *arguments)
    assert result.returncode == 0
    assert result.stdout == "up to 3 times: dedn train --config=cub_gzsl '--workdir=my runs/cub'\n"


def test_resume_starts_again_after_signals_until_the_end(fake_dedn: Path) -> None:
    (fake_dedn / "statuses").write_text("143\n137\n130\n0\n")
    result = launch("resume.sh", "--", "--config=x", "--workdir=y", fakes=fake_dedn)
    assert result.returncode == 0
    assert (fake_dedn / "calls").read_text() == "train --config=x --workdir=y\n" * 4


@pytest.mark.parametrize(
    ("statuses", "flags", "expected", "starts"),
    [
        ("2\n0\n", "--attempts=5", 2, 1),
        ("143\n143\n143\n", "--attempts=2", 1, 2),
        ("143\n1\n", "--attempts=5", 1, 2),
        ("134\n1\n0\n", "--crashes", 0, 3),
        ("134\n2\n0\n", "--crashes", 2, 2),
    ],
)
def test_resume_gives_up(
    fake_dedn: Path, statuses: str, flags: str, expected: int, starts: int
) -> None:
    (fake_dedn / "statuses").write_text(statuses)
    status_file = fake_dedn / "final status"
    result = launch(
        "resume.sh", flags, f"--status-file={status_file}", "--", "--workdir=y", fakes=fake_dedn
    )
    assert result.returncode == expected
    assert status_file.read_text() == f"{expected}\n"
    assert len((fake_dedn / "calls").read_text().splitlines()) == starts


def test_resume_runs_other_jobs_and_notes_their_failures(fake_dedn: Path) -> None:
    (fake_dedn / "statuses").write_text("3\n1\n0\n")
    file = fake_dedn / "failures"
    flags = ("--crashes", f"--failures-file={file}")
    result = launch("resume.sh", *flags, "--", "features", "extract", "--out=x", fakes=fake_dedn)
    assert result.returncode == 0
    assert (fake_dedn / "calls").read_text() == "features extract --out=x\n" * 3
    assert [line.split()[1] for line in file.read_text().splitlines()] == ["3", "1"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--",),
        ("--attempts=0", "--", "--workdir=x"),
        ("--pause=x", "--", "--workdir=x"),
        ("--what",),
        ("--", "report", "--workdir=x"),
    ],
)
def test_resume_refuses_bad_arguments(arguments: tuple[str, ...]) -> None:
    result = launch("resume.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("resume.sh: ")
