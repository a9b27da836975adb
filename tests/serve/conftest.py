"""A studio on a finished run, the page served by the command itself, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dedn_jax.serve.studio import Studio
from tests.helpers.picture_runs import PictureRuns

ROOT = Path(__file__).resolve().parent.parent.parent
# Of the server's process: notes whom it connects to and which names it looks up.
_AUDIT = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["NOTED"], "a") as file:
            print(event, arguments[event == "socket.connect"], file=file)
sys.addaudithook(note)
"""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Served(NamedTuple):
    """A running `dedn serve`.

    Attributes:
      url: of the page; ends in /.
      temporary: its folder for temporary files.
      network: a file of whom it connected to and which names it looked up.
      process: of the command.
    """

    url: str
    temporary: Path
    network: Path
    process: subprocess.Popen[str]


def start(workdir: Path, folder: Path, *flags: str) -> Served:
    """Starts `dedn serve` on any free port; returns when the page is there."""
    temporary, network = folder / "temporary", folder / "network.txt"
    temporary.mkdir()
    (folder / "sitecustomize.py").write_text(_AUDIT)
    command = [sys.executable, "-m", "dedn_jax", "serve", f"--workdir={workdir}", "--port=0"]
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "NOTED": str(network),
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
    }
    process = subprocess.Popen(
        [*command, *flags],
        env=environment,
        cwd=workdir,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    found = re.search(r"http://\S+/", line)
    if not found:
        process.kill()
        pytest.fail(f"{line}{process.communicate()[1]}")
    return Served(found[0], temporary, network, process)


@pytest.fixture(scope="session")
def studio(picture_runs: PictureRuns) -> Studio:
    return Studio(picture_runs.small)


@pytest.fixture(scope="session")
def served(picture_runs: PictureRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`dedn serve` on the small run, with 0.2 MB as the largest picture."""
    workdir = picture_runs.small.workdir.path
    running = start(workdir, tmp_path_factory.mktemp("served"), "--max-upload-mb=0.2")
    yield running
    running.process.terminate()
    running.process.communicate(timeout=60)


@pytest.fixture(scope="module")  # while it is there, asyncio runs nothing else in this thread
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs a browser driver: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()
