"""`launch/tpu_pod.sh watch` and `restart` with a fake pod of two workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.common import POD, TRAIN, launch, write_program
from tests.launch.pod import Pod


@pytest.fixture
def pod(fakes: Path, tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path, fakes)
    yield pod
    if (tmp_path / "state").exists():  # nothing runs on after a test
        pod.launch("delete", *POD[:3])


@pytest.mark.parametrize("queue", [(), ("--queue",)], ids=["tpu-vm", "queue"])
def test_tpu_watch_goes_on_after_a_preemption(pod: Pod, queue: tuple[str, ...]) -> None:
    pod.is_now("SUSPENDED" if queue else "PREEMPTED")
    ending = f'sleep 0.5; cp -r "$HOME" {pod.folder}/kept'
    result = pod.watch(*queue, "--delete-on=finish", ending=ending)
    assert result.returncode == 0, result.stderr
    waiting = ["describe", "describe"] if queue else []
    one_round = ["describe", "delete", "create", *waiting, "scp", "ssh", "ssh", "describe", "ssh"]
    assert pod.verbs[: len(one_round)] == one_round
    assert pod.verbs[-1] == "delete"
    assert "dedn is " + ("SUSPENDED" if queue else "PREEMPTED") in result.stderr
    assert "finished; deleting dedn" in result.stderr
    arguments = (pod.folder / "kept/arguments").read_text()
    assert arguments == f"train --workdir={pod.run} --distributed\n"


def test_tpu_watch_creates_what_is_not_there_and_ends_on_a_mistake(pod: Pod) -> None:
    result = pod.watch("--delete-on=finish,giveup", ending="echo 'dedn: no file x'; exit 2")
    assert result.returncode == 2
    assert pod.verbs[:6] == ["describe", "create", "scp", "ssh", "ssh", "describe"]
    assert "delete" not in pod.verbs
    assert "a mistake in config or data; dedn may still be there, and is charged for" in (
        result.stderr
    )
    assert ": dedn: no file x\n" in result.stderr


def test_tpu_watch_gives_up(pod: Pod, fakes: Path) -> None:
    write_program(fakes / "gcloud", "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    result = pod.watch("--failures=2", "--interval=0", ending="exit 0")
    (pod.folder / "state").unlink(missing_ok=True)
    assert result.returncode == 1
    assert "2 failures in a row; giving up" in result.stderr


def test_tpu_restart_leaves_a_pod_that_is_there(pod: Pod, fakes: Path) -> None:
    pod.is_now("READY")
    result = launch("tpu_pod.sh", "restart", *POD, *TRAIN, fakes=fakes)
    assert result.returncode == 2
    assert pod.verbs == ["describe"]


def spent(errors: str) -> tuple[float, float]:
    """Hours and cost of what `watch` says at last."""
    *_, last = re.finditer(r"([\d.]+) hours, ([\d.]+) at 3600 a chip-hour", errors)
    return float(last[1]), float(last[2])


# At 3600 a chip-hour the 256 chips cost 256 a second.
PRICE = "--price=3600"
RATE = 256


def test_tpu_watch_through_two_preemptions(pod: Pod) -> None:
    """The third TPU finishes the run, of which each did a part; hours of all three are counted."""
    ending = f"""
    steps 3
    [ "$(wc -l <"$run/metrics.jsonl")" -lt 9 ] || exit 0
    [[ "$HOME" = *worker-1 ]] || touch {pod.folder}/preempt
    sleep 60
    """
    result = pod.watch("--delete-on=always", "--crashes=3", PRICE, ending=ending)
    assert result.returncode == 0, result.stderr
    assert pod.verbs.count("create") == 3
    assert pod.verbs[-1] == "delete"
    assert result.stderr.count("lost the TPU after ") == 2
    _, cost = spent(result.stderr)
    assert cost >= 3 * RATE


def test_tpu_watch_gives_up_a_mount_that_fails(pod: Pod) -> None:
    """One worker's mount fails; nothing is ever started."""
    setup = 'case "$HOME" in *worker-1) echo "mount.nfs: timed out" >&2; exit 32 ;; esac'
    flags = (f"--setup={setup}", "--failures=3", "--delete-on=giveup", PRICE)
    result = pod.watch(*flags, ending="exit 0")
    assert result.returncode == 1
    assert "mount.nfs: timed out" in result.stderr
    assert "3 failures in a row; giving up; deleting dedn" in result.stderr
    assert pod.commands("start") == 0
    assert pod.verbs[-1] == "delete"
    assert spent(result.stderr)[1] > RATE


@pytest.mark.slow
def test_tpu_watch_gives_up_workers_that_do_not_join(pod: Pod) -> None:
    """Each process starts and ends with 3, seen as running in between; without it, 20 times."""
    flags = ("--crashes=2", "--delete-on=giveup", PRICE)
    result = pod.watch(*flags, ending="sleep 2; echo dedn: process 1 is missing; exit 3")
    assert result.returncode == 1
    assert "2 crashes without anything done in between; giving up; deleting" in result.stderr
    assert ": dedn: process 1 is missing\n" in result.stderr
    assert pod.verbs[-1] == "delete"


def test_tpu_watch_does_not_count_crashes_of_a_run_that_gets_on(pod: Pod) -> None:
    ending = 'steps 5; [ "$(wc -l <"$run/metrics.jsonl")" -ge 15 ] || exit 1'
    result = pod.watch("--crashes=2", "--delete-on=finish", ending=ending)
    assert result.returncode == 0, result.stderr
    assert pod.verbs.count("create") == 1


def test_tpu_watch_deletes_after_a_mistake(pod: Pod) -> None:
    result = pod.watch("--delete-on=mistake", PRICE, ending="exit 2")
    assert result.returncode == 2
    assert "a mistake in config or data; deleting dedn, which was there for 0.00" in result.stderr
    assert pod.verbs[-1] == "delete"


@pytest.mark.slow
def test_tpu_watch_starts_a_run_again_whose_peer_hangs(pod: Pod) -> None:
    """A process that neither steps nor hears SIGTERM; the other waits for it."""
    ending = """
    steps 3
    [ -e "$run/again" ] && exit 0
    [[ "$HOME" = *worker-0 ]] && touch "$run/hung" && sleep 60
    trap '' TERM; while :; do sleep 1; done
    """
    # The other one starts again later; only now may a start end.
    ending = ending.replace("touch", "sleep 1 && touch").replace(
        "steps 3", 'steps 3; [ -e "$run/hung" ] && touch "$run/again"'
    )
    flags = ("--stall=0.07", "--grace=2", "--delete-on=finish", PRICE)
    result = pod.watch(*flags, ending=ending)
    assert result.returncode == 0, result.stderr
    assert "nothing was done for 0.07 minutes; stopping and starting again" in result.stderr
    assert "still running on" in result.stderr and "after 2 s; killed" in result.stderr
    assert pod.verbs.count("create") == 1
    assert pod.commands("stop") >= 1


@pytest.mark.parametrize("limit", [("--max-hours=0.001",), (PRICE, f"--max-cost={3.6 * RATE}")])
def test_tpu_watch_ends_at_a_limit(pod: Pod, limit: tuple[str, ...]) -> None:
    """Saves and deletes; given again it creates nothing."""
    ending = f"trap 'kill $!; touch {pod.folder}/saved; exit 143' TERM; sleep 60 & wait"
    result = pod.watch(*limit, ending=ending)
    assert result.returncode == 1, result.stderr
    assert f"{limit[-1]} is reached; deleting dedn" in result.stderr
    assert (pod.folder / "saved").exists()
    assert pod.verbs[-1] == "delete"
    creations = pod.verbs.count("create")
    result = pod.watch(*limit, ending=ending)
    assert result.returncode == 1
    assert "this run has had the TPU for 0.00 hours" in result.stderr
    assert f"{limit[-1]} is reached" in result.stderr
    assert pod.verbs.count("create") == creations


def test_tpu_watch_counts_nothing_back(pod: Pod, fakes: Path) -> None:
    """The clock of the operator's machine is set back while the pod runs."""
    calls = pod.folder / "dates"
    earlier = f"echo >> {calls}; [ $(wc -l < {calls}) -gt 3 ] && echo $(($(/bin/date +%s) - 90000))"
    write_program(fakes / "date", f'#!/bin/sh\n{{ {earlier}; }} || exec /bin/date "$@"\n')
    result = pod.watch("--delete-on=finish", "--stall=0.5", ending="steps 20")
    assert result.returncode == 0, result.stderr
    assert len(calls.read_text()) > 4
    assert "finished; deleting dedn, which was there for 0.0" in result.stderr


def test_tpu_watch_ends_after_stop(pod: Pod) -> None:
    """Which asks for no deletion, unless with --delete-on=always."""
    stop = "dedn-jax/launch/worker.sh stop"
    ending = f'(cd "$HOME" && setsid {stop} >/dev/null 2>&1 &) ; sleep 60'
    result = pod.watch("--delete-on=finish,mistake,giveup", ending=ending)
    assert result.returncode == 143, result.stderr
    assert "the run was stopped; dedn may still be there, and is charged for" in result.stderr
    assert "delete" not in pod.verbs
    result = pod.watch("--delete-on=always", ending=ending)
    assert result.returncode == 143
    assert pod.verbs[-1] == "delete"
