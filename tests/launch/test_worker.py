"""`launch/worker.sh`: starting, watching and stopping a worker's training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.common import launch, wait_for, write_program


def test_worker(tmp_path: Path) -> None:
    state = tmp_path / "state"
    dedn = write_program(
        tmp_path / "dedn",
        "#!/usr/bin/env bash\ntrap 'kill $!; echo saved; exit 143' TERM\n"
        'echo "$@"; sleep 60 & wait\n',
    )
    run = f"--workdir={tmp_path}/a run"

    def worker(*arguments: str) -> str:
        result = launch("worker.sh", *arguments, DEDN=str(dedn), DEDN_STATE=str(state))
        assert result.returncode == 0, result.stderr
        return result.stdout.partition(": ")[2].rstrip()

    assert worker("status") == "idle failures=0 done=0"
    assert worker("start", "--", run) == "started"
    try:
        wait_for(lambda: "train" in (state / "job.log").read_text())
        (tmp_path / "a run").mkdir()
        (tmp_path / "a run" / "metrics.jsonl").write_text("{}\n{}\n")
        assert worker("status") == "running failures=0 done=2"
        assert worker("start", "--", run) == "running already"
    finally:
        assert worker("stop") == "stopped"
    assert (state / "job.log").read_text() == f"train {run} --distributed\nsaved\n"
    assert (state / "status").read_text() == "143\n"
    (state / "stopped").unlink()
    assert worker("status") == "ended 143 failures=0 done=2"
    (state / "status").unlink()
    (state / "failures").write_text("1790000000 3\n1790000060 1\n")
    assert worker("status") == "lost failures=2 done=2"
    (state / "status").write_text("0\n")
    assert worker("status") == "finished failures=2 done=2"
    result = launch("worker.sh", "logs", "--once", "--lines=1", DEDN_STATE=str(state))
    assert result.stdout == "saved\n"


@pytest.mark.parametrize(
    ("job", "files", "expected"),
    [
        ("sweep\n{}/a run", ["points/0/metrics.jsonl", "points/11/metrics.jsonl"], 2),
        ("features extract\n{}/a run", ["shard-0.npy", ".shard-1.npy.abc", "plan.json"], 2),
        ("evaluate\n{}/a run", ["metrics.jsonl"], 0),
        ("train\n{}/missing", [], 0),
    ],
    ids=["sweep", "extract", "evaluate", "missing"],
)
def test_worker_measures_what_is_done(
    tmp_path: Path, job: str, files: list[str], expected: int
) -> None:
    for name in files:
        file = tmp_path / "a run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    (tmp_path / "job").write_text(job.format(tmp_path) + "\n")
    result = launch("worker.sh", "status", DEDN_STATE=str(tmp_path))
    assert result.stdout.endswith(f": idle failures=0 done={expected}\n")


def test_worker_kills_what_does_not_stop(tmp_path: Path) -> None:
    state = tmp_path / "state"
    deaf = "#!/usr/bin/env bash\ntrap '' TERM\nsleep 60 & echo $!; wait; sleep 60\n"
    dedn = write_program(tmp_path / "dedn", deaf)
    environment = {"DEDN": str(dedn), "DEDN_STATE": str(state)}
    assert launch("worker.sh", "start", "--", f"--workdir={tmp_path}/run", **environment)
    wait_for(lambda: (state / "job.log").exists() and (state / "job.log").read_text())
    result = launch("worker.sh", "stop", "--timeout=1", **environment)
    assert result.returncode == 0
    assert "after 1 s; killed" in result.stderr
    sleeping = int((state / "job.log").read_text().split()[0])
    wait_for(lambda: not is_alive(sleeping))


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def test_worker_refuses_a_filesystem_that_is_not_mounted(tmp_path: Path) -> None:
    workdir = f"--workdir={tmp_path}/not mounted/run"
    result = launch("worker.sh", "start", "--", workdir, DEDN_STATE=str(tmp_path / "state"))
    assert result.returncode == 2
    assert f"no folder {tmp_path}/not mounted on" in result.stderr
