"""`launch/tpu_pod.sh`: the gcloud commands of each action, and the arguments it refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.launch.common import PLACE, POD, ROOT, TRAIN, calls, launch

AT = "--zone=us-west4-a --project=my-project"
TPU = "gcloud compute tpus tpu-vm"
QUEUE = "gcloud compute tpus queued-resources"
WORKER = "dedn-jax/launch/worker.sh"
CREATE = (
    f"{TPU} create dedn {AT} --accelerator-type=v5litepod-256 "
    "--version=v2-alpha-tpuv5-lite --spot\n"
)
DESCRIBE = f"{TPU} describe dedn {AT} '--format=value(state)'\n"
DELETE = f"{TPU} delete dedn {AT} --quiet\n"
QUEUE_CREATE = (
    f"{QUEUE} create dedn {AT} --node-id=dedn --accelerator-type=v5litepod-256 "
    "--runtime-version=v2-alpha-tpuv5-lite --spot\n"
)
QUEUE_DESCRIBE = f"{QUEUE} describe dedn {AT} '--format=value(state.state)'\n"
QUEUE_DELETE = f"{QUEUE} delete dedn {AT} --force --quiet\n"
COPY = (
    f"mkdir -p {ROOT}/build\n"
    f"tar -C {ROOT} --exclude=__pycache__ -czf {ROOT}/build/dedn-jax-dedn.tar.gz dedn_jax configs "
    "launch setup.py pyproject.toml requirements.txt README.md LICENSE NOTICE\n"
    f"{TPU} scp {ROOT}/build/dedn-jax-dedn.tar.gz dedn:dedn-jax.tar.gz {AT} --worker=all\n"
    f"{TPU} ssh dedn {AT} --worker=all '--command=mkdir -p dedn-jax && "
    f"tar -C dedn-jax -xzf dedn-jax.tar.gz && {WORKER} install --extra=tpu'\n"
)
START = (
    f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} start -- train --config=cub_gzsl "
    "--workdir=/mnt/shared/runs/cub'\n"
)
STOP = f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} stop --timeout=600'\n"
STATUS = (
    f"{TPU} ssh dedn {AT} --worker=all '--command=if [ -x {WORKER} ]; then {WORKER} status; "
    'else echo "dedn-worker $(hostname): not installed"; fi\'\n'
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("create", *POD, "--spot"), CREATE),
        (("create", *POD, "--spot", "--queue"), QUEUE_CREATE + QUEUE_DESCRIBE),
        (("install", *PLACE), COPY),
        (
            ("install", *PLACE, "--setup=sudo mount -t nfs 10.0.0.2:/a '/mnt/a b'"),
            f"{TPU} ssh dedn {AT} --worker=all '--command=sudo mount -t nfs 10.0.0.2:/a "
            "'\\''/mnt/a b'\\'''\n" + COPY,
        ),
        (("start", *PLACE, *TRAIN), START),
        (("status", *PLACE), DESCRIBE + STATUS),
        (("logs", *PLACE), f"{TPU} ssh dedn {AT} --worker=0 '--command={WORKER} logs'\n"),
        (
            ("logs", *PLACE, "--worker=all"),
            f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} logs --prefix'\n",
        ),
        (("stop", *PLACE), STOP),
        (("stop", *PLACE, "--grace=60"), STOP.replace("600", "60")),
        (("restart", *POD, "--spot", *TRAIN), DESCRIBE + DELETE + CREATE + COPY + START),
        (
            ("restart", *POD, "--spot", "--queue", *TRAIN),
            QUEUE_DESCRIBE + QUEUE_DELETE + QUEUE_CREATE + QUEUE_DESCRIBE + COPY + START,
        ),
        (
            ("watch", *POD, "--spot", "--interval=30", "--delete-on=finish,giveup", *TRAIN),
            f"# every 30 s:\n{DESCRIBE}{STATUS}# after a preemption:\n{DELETE}{CREATE}{COPY}{START}"
            f"# when nothing was done for 60 minutes:\n{STOP}{START}"
            f"# at the end (--delete-on=finish,giveup):\n{DELETE}",
        ),
        (
            ("watch", *POD, "--spot", "--stall=0", "--max-hours=12.5", *TRAIN),
            f"# every 60 s:\n{DESCRIBE}{STATUS}# after a preemption:\n{DELETE}{CREATE}{COPY}{START}"
            f"# after 12.5 hours:\n{STOP}{DELETE}",
        ),
        (
            ("watch", *POD, "--spot", "--stall=0", "--price=1.2", "--max-cost=500", *TRAIN),
            f"# every 60 s:\n{DESCRIBE}{STATUS}# after a preemption:\n{DELETE}{CREATE}{COPY}{START}"
            f"# after a cost of 500:\n{STOP}{DELETE}",
        ),
        (("delete", *PLACE), DELETE),
        (("delete", *PLACE, "--queue"), QUEUE_DELETE),
    ],
    ids=lambda value: " ".join(value[:1] + value[-1:]) if isinstance(value, tuple) else "",
)
def test_tpu_dry_run(fakes: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = launch("tpu_pod.sh", *arguments[:1], "--dry-run", *arguments[1:], fakes=fakes)
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected
    assert calls(fakes.parent) == []


def test_tpu_quotes_for_two_shells() -> None:
    argument = """--workdir=/mnt/my runs/"it's" $HOME; `true` \\ *"""
    result = launch("tpu_pod.sh", "start", "--dry-run", *PLACE, "--", argument)
    [command] = [a for a in shlex.split(result.stdout) if a.startswith("--command=")]
    remote = shlex.split(command.removeprefix("--command="))
    assert remote == [WORKER, "start", "--", "train", argument]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("sweep", "--seeds=3", "--workdir=/mnt/x"), "sweep --seeds=3 --workdir=/mnt/x"),
        (("features", "extract", "--out=/mnt/x"), "features extract --out=/mnt/x"),
        (("evaluate", "--workdir=gs://bucket/x"), "evaluate --workdir=gs://bucket/x"),
        (("predict", "--workdir=/mnt/x", "/mnt/y"), "predict --workdir=/mnt/x /mnt/y"),
        (("train", "--workdir=/mnt/x"), "train --workdir=/mnt/x"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_tpu_starts_every_job(arguments: tuple[str, ...], command: str) -> None:
    result = launch("tpu_pod.sh", "start", "--dry-run", *PLACE, "--", *arguments)
    assert (
        result.stdout
        == f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} start -- {command}'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "unknown action ''"),
        (("fly", *PLACE), "unknown action 'fly'"),
        (("create", *PLACE), "--type=, expected an accelerator type"),
        (("create", *PLACE, "--type=v5litepod-256"), "--runtime-version=, expected"),
        (("status", "--name=my tpu", *PLACE[1:]), "--name=my tpu, expected lower-case"),
        (("status", "--name=x", "--zone=us-west4", "--project=my-project"), "--zone=us-west4"),
        (("status", "--name=x", "--zone=us-west4-a"), "--project=, expected"),
        (("status", *PLACE, *TRAIN), "arguments after -- are for"),
        (("logs", *PLACE, "--worker=first"), "--worker=first, expected a number"),
        (("watch", *POD, "--interval=soon", *TRAIN), "--interval=soon, expected a number"),
        (("start", *PLACE), "nothing after --"),
        (("start", *PLACE, "--", "--config=x"), "no --workdir"),
        (("start", *PLACE, "--", "--workdir=runs/x"), "--workdir=runs/x, expected an absolute"),
        (("start", *PLACE, "--", "--workdir=/x", "--distributed"), "--distributed is added"),
        (("start", *PLACE, "--", "--workdir=/x\n"), "a line break"),
        (("start", *PLACE, "--config=x"), "unknown argument --config=x"),
        (("start", *PLACE, "--", "serve", "--workdir=/x"), "'serve' after --, expected train"),
        (("start", *PLACE, "--", "features", "check"), "'features check' after --, expected"),
        (("start", *PLACE, "--", "features", "extract", "--workdir=/x"), "no --out=DIR after --"),
        (("start", *PLACE, "--", "sweep", "--workdir=gs://"), "--workdir=gs://, expected"),
        (("start", *PLACE, "--", "--workdir=ftp://b/x"), "--workdir=ftp://b/x, expected"),
        (
            ("start", *PLACE, "--", "features", "extract", "--out=gs://b/x"),
            "--out=gs://b/x, expected an absolute path on a filesystem that all hosts share",
        ),
        (
            ("watch", *POD, "--delete-on=never", *TRAIN),
            "--delete-on=never, expected finish, mistake",
        ),
        (("watch", *POD, "--max-hours=long", *TRAIN), "--max-hours=long, expected a number from 0"),
        (("watch", *POD, "--max-cost=9", *TRAIN), "--max-cost=9: what does a chip cost an hour?"),
        (("watch", *POD, "--price=-1", *TRAIN), "--price=-1, expected a number from 0"),
        (("watch", *POD, "--crashes=0", *TRAIN), "--crashes=0, expected a number from 1"),
        (("watch", *POD, "--stall=1h", *TRAIN), "--stall=1h, expected a number from 0"),
        (
            ("watch", *POD, "--type=x9-8", "--price=1", *TRAIN),
            "--price: how many chips has --type=x9-8? known: v2, v3, v4,",
        ),
    ],
)
def test_tpu_refuses_bad_arguments(arguments: tuple[str, ...], message: str, fakes: Path) -> None:
    result = launch("tpu_pod.sh", *arguments, fakes=fakes)
    assert result.returncode == 2
    assert result.stderr.startswith(f"tpu_pod.sh: {message}")
    assert result.stderr.count("\n") == 1 + message.count("\n")
    assert calls(fakes.parent) == []
