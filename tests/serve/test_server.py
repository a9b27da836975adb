"""`dedn serve` as a command: what it refuses, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from tests.helpers.picture_runs import PictureRuns
from tests.helpers.tiny import tiny_config, write_tiny
from tests.serve.conftest import Served, start

pytestmark = pytest.mark.gradio


@pytest.mark.parametrize(
    ("number", "status"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_signals_end_it_quietly(
    picture_runs: PictureRuns, tmp_path: Path, number: int, status: int
) -> None:
    running = start(picture_runs.small.workdir.path, tmp_path)
    with urllib.request.urlopen(running.url) as answer:
        assert b"gradio" in answer.read()
    os.kill(running.process.pid, number)
    out, err = running.process.communicate(timeout=60)
    assert running.process.returncode == status
    assert out == ""
    assert err.splitlines()[-1] == "dedn: stopped"
    assert "Traceback" not in err


def test_gradios_own_doors_are_closed(served: Served) -> None:
    """Not by the gate's list alone: asked as anyone would ask."""
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/info", "openapi.json", "docs"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(served.url + path)
        assert refused.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(served.url + "gradio_api/upload", data=b"x")
    assert refused.value.code == 404
    with urllib.request.urlopen(served.url + "theme.css") as answer:
        hosts = set(re.findall(rb"https?://([^/\"' )]+)", answer.read()))
    assert hosts <= {b"www.w3.org"}  # names SVG, and is not fetched


def test_a_port_that_is_taken(
    picture_runs: PictureRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        workdir = f"--workdir={picture_runs.small.workdir.path}"
        assert main(["serve", workdir, f"--port={port}"]) == 2
    message = capsys.readouterr().err
    assert f"dedn: --port={port}: cannot be used on 127.0.0.1 (Address already in use)" in message


@pytest.mark.parametrize("port", [0, 80])
def test_an_address_of_another_machine(
    picture_runs: PictureRuns, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    workdir = f"--workdir={picture_runs.small.workdir.path}"
    assert main(["serve", workdir, "--host=192.0.2.1", f"--port={port}"]) == 2
    message = capsys.readouterr().err
    assert "dedn: --host=192.0.2.1: no address of this machine (Cannot assign" in message
    assert "--port" not in message


def test_runs_that_cannot_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dedn_jax.data.load import load_dataset
    from dedn_jax.training.workdir import Workdir

    config = tiny_config(write_tiny(tmp_path / "tiny.hdf5"))
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    workdir.claim(config, load_dataset(config).fingerprint())
    assert main(["serve", f"--workdir={workdir.path}", "--port=0"]) == 2
    assert "the run is not finished" in capsys.readouterr().err
    assert main(["serve", f"--workdir={workdir.path}", "--host=no.such.host.invalid"]) == 2
    assert (
        "dedn: --host=no.such.host.invalid: no address of this machine (" in capsys.readouterr().err
    )
