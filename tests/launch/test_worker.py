"""`launch/worker.sh`: starting, watching and stopping a worker's training."""

from __future__ import annotations

from pathlib import Path

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

    assert worker("status") == "idle"
    assert worker("start", "--", run, "--distributed") == "started"
    try:
        wait_for(lambda: "train" in (state / "train.log").read_text())
        assert worker("status") == "running"
        assert worker("start", "--", run, "--distributed") == "running already"
    finally:
        assert worker("stop") == "stopped"
    assert (state / "train.log").read_text() == f"train {run} --distributed\nsaved\n"
    assert (state / "status").read_text() == "143\n"
    (state / "stopped").unlink()
    assert worker("status") == "ended 143"
    (state / "status").unlink()
    assert worker("status") == "lost"
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "result.json").touch()
    assert worker("status") == "finished"


def test_worker_refuses_a_filesystem_that_is_not_mounted(tmp_path: Path) -> None:
    workdir = f"--workdir={tmp_path}/not mounted/run"
    result = launch("worker.sh", "start", "--", workdir, DEDN_STATE=str(tmp_path / "state"))
    assert result.returncode == 2
    assert f"no folder {tmp_path}/not mounted on" in result.stderr
