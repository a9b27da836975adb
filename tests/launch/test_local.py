"""`launch/local.sh`: processes on one machine, their logs, ends and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.common import LAUNCH, environment, launch, wait_for, write_program

LOCAL_DEDN = """#!{python}
# Does what the argument after `train` says: all `end`, one `dies`, or all `wait`.
import os, signal, sys, time
flags = dict(a[2:].split("=", 1) for a in sys.argv if a.startswith("--") and "=" in a)
process, what = int(flags["process"]), sys.argv[2]
def saved(number, frame):
    time.sleep(0.2)
    print("saved", flush=True)
    sys.exit(128 + number)
for number in signal.SIGTERM, signal.SIGINT:
    signal.signal(number, signal.SIG_IGN if (what, process) == ("deaf", 0) else saved)
setting = os.environ.get("JAX_PLATFORMS"), os.environ.get("CUDA_VISIBLE_DEVICES")
print(flags["processes"], flags["coordinator"], *setting, *sys.argv[3:4], flush=True)
ready = [f"{__file__}.{i}" for i in range(int(flags["processes"]))]
open(ready[process], "w").close()
if process == 1 and what in ("dies", "deaf"):
    while not all(map(os.path.exists, ready)):
        time.sleep(0.05)
    sys.exit(3)
if what != "end":
    time.sleep(60)
"""


@pytest.fixture
def local_dedn(tmp_path: Path) -> str:
    text = LOCAL_DEDN.replace("{python}", sys.executable)
    return str(write_program(tmp_path / "a dedn", text))


# In the background Ctrl-C is ignored, and no shell can trap what it was told to ignore.
_TAKING_INTERRUPTS = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


def test_local_all_succeed(local_dedn: str, tmp_path: Path) -> None:
    logs = tmp_path / "the logs"
    flags = ("--processes=3", "--cpu", "--port=20123", f"--logs={logs}")
    result = launch("local.sh", *flags, "--", "train", "end", "a  b", DEDN=local_dedn)
    assert result.returncode == 0, result.stderr
    line = "3 127.0.0.1:20123 cpu None a  b"
    assert sorted(result.stdout.splitlines()) == [f"[{i}] {line}" for i in range(3)]
    for i in range(3):
        assert (logs / f"process-{i}.log").read_text() == f"{line}\n"


def test_local_shares_out_gpus(local_dedn: str) -> None:
    arguments = (
        "--processes=2",
        "--devices=2",
        "--port=9",
        "--dry-run",
        "--",
        "train",
        "--config=x",
    )
    tail = "dedn train --config=x --coordinator=127.0.0.1:9 --processes=2"
    assert launch("local.sh", *arguments).stdout == (
        f"env CUDA_VISIBLE_DEVICES=0,1 {tail} --process=0\n"
        f"env CUDA_VISIBLE_DEVICES=2,3 {tail} --process=1\n"
    )
    result = launch("local.sh", *arguments, CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert "CUDA_VISIBLE_DEVICES=6,7 dedn" in result.stdout
    result = launch("local.sh", *arguments, CUDA_VISIBLE_DEVICES="4,5")
    assert result.returncode == 2
    assert "expected 4 devices" in result.stderr


@pytest.mark.parametrize("what", ["dies", "deaf"])
def test_local_stops_the_others_when_one_dies(local_dedn: str, what: str) -> None:
    start = time.monotonic()
    # Long enough to save on a busy machine; a deaf process would go on for a minute.
    flags = ("--processes=3", f"--grace={6 if what == 'deaf' else 40}", "--", "train", what)
    result = launch("local.sh", *flags, DEDN=local_dedn)
    assert result.returncode == 3
    assert time.monotonic() - start < 50
    assert "local.sh: process 1 ended with status 3\n" in result.stderr
    assert "[2] saved" in result.stdout
    assert ("[0] saved" in result.stdout) == (what == "dies")
    assert ("killing what is left" in result.stderr) == (what == "deaf")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on_and_waits(
    local_dedn: str, tmp_path: Path, number: signal.Signals
) -> None:
    logs = tmp_path / "logs"
    command = ["bash", str(LAUNCH / "local.sh"), "--processes=2", "--cpu", f"--logs={logs}"]
    with subprocess.Popen(
        [*_TAKING_INTERRUPTS, *command, "--", "train", "wait"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(DEDN=local_dedn),
        stdin=subprocess.DEVNULL,
    ) as script:
        files = [logs / f"process-{i}.log" for i in range(2)]
        wait_for(lambda: all(f.exists() and f.read_text() for f in files))
        script.send_signal(number)
        output = script.communicate(timeout=50)[0]
    assert script.returncode == 128 + number
    assert {"[0] saved", "[1] saved"} <= set(output.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--processes=, expected a number from 1"),
        (("--processes=2",), "nothing after --"),
        (("--processes=2", "--", "report"), "'report' after --, expected"),
        (("--processes=2", "--", "features", "check"), "'features check' after --, expected"),
        (("--processes=2", "--", "train", "--process=1"), "--process=1 is added here"),
        (("--processes=two", "--", "train"), "--processes=two, expected"),
        (("--processes=2", "--gpu", "--", "train"), "unknown argument --gpu"),
    ],
)
def test_local_refuses_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    result = launch("local.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"local.sh: {message}")


def test_local_needs_a_program() -> None:
    result = launch("local.sh", "--processes=2", "--", "train", DEDN="/no/dedn")
    assert result.returncode == 2
    assert result.stderr.startswith("local.sh: no /no/dedn on PATH")
