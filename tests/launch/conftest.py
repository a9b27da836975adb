"""Fakes of the programs that launch scripts call."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.launch.common import write_program

# None of these is ever the real one in a test.
OUTSIDE = ("gcloud", "kubectl", "sbatch", "srun", "scontrol")


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A folder first on PATH, with programs that only record what they were given."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in OUTSIDE:
        write_program(
            folder / name,
            f"""#!{sys.executable}
import json, sys
call = [{name!r}, *sys.argv[1:]]
if {name!r} == "sbatch":
    call.append(sys.stdin.read())
with open({str(tmp_path / "calls.jsonl")!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
""",
        )
    return folder
