"""Bad inputs through the command line: one line that says what to do, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dedn_jax.cli import main as cli
from tests.cli.bad_inputs.rows.archives import ARCHIVES
from tests.cli.bad_inputs.rows.backbones import BACKBONES
from tests.cli.bad_inputs.rows.class_embeddings import SENTENCES
from tests.cli.bad_inputs.rows.configs import CONFIGS
from tests.cli.bad_inputs.rows.disks import DISKS
from tests.cli.bad_inputs.rows.explanations import EXPLANATIONS
from tests.cli.bad_inputs.rows.folders import FOLDER
from tests.cli.bad_inputs.rows.hdf5 import HDF5
from tests.cli.bad_inputs.rows.odd_paths import ODD_PATHS
from tests.cli.bad_inputs.rows.other_peoples import OTHER_PEOPLES
from tests.cli.bad_inputs.rows.outputs import OUTPUTS
from tests.cli.bad_inputs.rows.pictures import PICTURES
from tests.cli.bad_inputs.rows.plans import PLANS
from tests.cli.bad_inputs.rows.predictions import PREDICTIONS
from tests.cli.bad_inputs.rows.serving import SERVING
from tests.cli.bad_inputs.rows.stores import STORES
from tests.cli.bad_inputs.rows.word_vectors import WORDS
from tests.cli.bad_inputs.rows.xlsa17 import XLSA
from tests.cli.bad_inputs.world import Bad, Shared, World

ROOT = Path(__file__).resolve().parent.parent.parent.parent
# What was done before the mistake was met.
PROGRESS = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*\n", re.MULTILINE)
TABLE = [
    *HDF5,
    *WORDS,
    *SENTENCES,
    *XLSA,
    *FOLDER,
    *PICTURES,
    *ARCHIVES,
    *BACKBONES,
    *STORES,
    *CONFIGS,
    *DISKS,
    *OUTPUTS,
    *PLANS,
    *PREDICTIONS,
    *EXPLANATIONS,
    *SERVING,
    *OTHER_PEOPLES,
    *ODD_PATHS,
]
_messages: dict[str, str] = {}


def listing(folder: Path) -> dict[str, object]:
    """What is in a folder: every file's bytes, every link's target."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def test_rows_have_names_of_their_own_and_say_all() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE) >= 35
    assert all(row.file and row.wrong and row.advice for row in TABLE)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=getattr(pytest.mark, row.needs) if row.needs else ())
        for row in TABLE
    ],
)
def test_one_line_that_says_what_to_do(
    row: Bad,
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = World(tmp_path, shared, monkeypatch)
    monkeypatch.chdir(tmp_path)
    argv = row.make(world)
    before = listing(tmp_path)
    capfd.readouterr()
    if row.outside:
        command = [sys.executable, "-m", "dedn_jax", *argv]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
        status, printed = done.returncode, PROGRESS.sub("", done.stderr.decode())
    else:
        with contextlib.ExitStack() as stack:
            told = stack.enter_context(warnings.catch_warnings(record=True))
            for context in world.during:
                stack.enter_context(context)
            status = cli.main(argv)
        printed = PROGRESS.sub("", capfd.readouterr().err)
        # Each would be lines on standard error. Python itself shows no one else's deprecations.
        hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning)
        assert not [w.message for w in told if not issubclass(w.category, hidden)]
    monkeypatch.undo()
    assert status == 2
    assert printed.startswith("dedn: ")
    assert printed.endswith("\n") and printed.count("\n") == 1
    for part in (row.file, row.wrong, row.advice):
        assert part in printed
    after = listing(tmp_path)
    assert set(after) - set(before) == set(row.left)
    assert {name: after[name] for name in after if name not in row.left} == before
    message = re.sub(r"/[^\s:;,()]+", "PATH", printed)
    assert _messages.setdefault(message, row.name) == row.name
