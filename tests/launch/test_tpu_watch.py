"""`launch/tpu_pod.sh watch` and `restart` with a fake pod of two workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.common import LAUNCH, POD, TRAIN, launch, write_program

FAKE_GCLOUD = """#!{python}
# A pod of two workers, each with a home of its own; commands really run there.
import json, os, pathlib, shutil, subprocess, sys
top = pathlib.Path({top!r})
words = sys.argv[1:]
flags = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
what, verb = words[2:4]
with open(top / "gcloud.jsonl", "a") as file:
    file.write(json.dumps([what, verb]) + "\\n")
state = top / "state"
workers = [top / f"worker-{{i}}" for i in range(2)]
if verb == "describe":
    if not state.exists():
        sys.exit("ERROR: (gcloud.compute.tpus) NOT_FOUND: no such resource")
    states = state.read_text().split()
    if len(states) > 1:
        state.write_text(" ".join(states[1:]))
    print(states[0])
elif verb == "delete":
    state.unlink()
    for home in workers:
        shutil.rmtree(home, ignore_errors=True)
elif verb == "create":
    state.write_text("WAITING_FOR_RESOURCES ACTIVE" if what == "queued-resources" else "READY")
    for home in workers:
        home.mkdir()
elif verb == "scp":
    for home in workers:
        shutil.copy(words[4], home / words[5].split(":")[1])
elif verb == "ssh":
    chosen = workers if flags["worker"] == "all" else [workers[int(flags["worker"])]]
    for home in chosen:
        environment = os.environ | dict(HOME=str(home))
        subprocess.run(["bash", "-c", flags["command"]], cwd=home, env=environment, check=True)
"""

# `-m venv` with a pip that does nothing, and a dedn that notes its arguments and its workdir's end.
FAKE_PYTHON = """#!/usr/bin/env bash
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\n' > "$3/bin/pip"
cat > "$3/bin/dedn" <<'END'
#!/usr/bin/env bash
echo "$@" >> "$HOME/arguments"
{ending}
END
chmod +x "$3/bin/pip" "$3/bin/dedn"
"""


@pytest.fixture
def pod(fakes: Path, tmp_path: Path) -> Path:
    write_program(fakes / "gcloud", FAKE_GCLOUD.format(python=sys.executable, top=str(tmp_path)))
    (tmp_path / "shared").mkdir()
    # A small checkout of its own, in which archives are made.
    checkout = tmp_path / "checkout"
    shutil.copytree(LAUNCH, checkout / "launch")
    for name in ("dedn_jax", "configs"):
        (checkout / name).mkdir()
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        (checkout / name).touch()
    return tmp_path


def verbs(pod: Path) -> list[str]:
    return [json.loads(line)[1] for line in (pod / "gcloud.jsonl").read_text().splitlines()]


def watch(pod: Path, *flags: str, ending: str) -> subprocess.CompletedProcess[str]:
    write_program(pod / "fakes" / "python3.13", FAKE_PYTHON.replace("{ending}", ending))
    workdir = f"--workdir={pod}/shared/my run"
    flags = (*POD, "--spot", "--interval=1", *flags)
    folder = pod / "checkout" / "launch"
    return launch("tpu_pod.sh", "watch", *flags, "--", workdir, fakes=pod / "fakes", folder=folder)


@pytest.mark.parametrize("queue", [(), ("--queue",)], ids=["tpu-vm", "queue"])
def test_tpu_watch_goes_on_after_a_preemption(pod: Path, queue: tuple[str, ...]) -> None:
    (pod / "state").write_text("SUSPENDED" if queue else "PREEMPTED")
    for i in range(2):
        (pod / f"worker-{i}").mkdir()
    run = f"{pod}/shared/my run"
    ending = f'sleep 0.5; mkdir -p "{run}"; touch "{run}/result.json"'
    result = watch(pod, *queue, "--then-delete", ending=f'cp -r "$HOME" {pod}/kept; {ending}')
    assert result.returncode == 0, result.stderr
    waiting = ["describe", "describe"] if queue else []
    one_round = ["describe", "delete", "create", *waiting, "scp", "ssh", "ssh", "describe", "ssh"]
    assert verbs(pod)[: len(one_round)] == one_round
    assert verbs(pod)[-1] == "delete"
    assert "dedn is " + ("SUSPENDED" if queue else "PREEMPTED") in result.stderr
    assert "finished; deleting dedn" in result.stderr
    assert (pod / "kept/arguments").read_text() == f"train --workdir={run} --distributed\n"


def test_tpu_watch_creates_what_is_not_there_and_ends_on_a_mistake(pod: Path) -> None:
    result = watch(pod, ending="exit 2")
    assert result.returncode == 2
    assert verbs(pod)[:6] == ["describe", "create", "scp", "ssh", "ssh", "describe"]
    assert "delete" not in verbs(pod)
    assert "a mistake in config or data" in result.stderr


def test_tpu_watch_gives_up(pod: Path) -> None:
    write_program(pod / "fakes" / "gcloud", "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    result = watch(pod, "--failures=2", "--interval=0", ending="exit 0")
    assert result.returncode == 1
    assert "2 failures in a row; giving up" in result.stderr


def test_tpu_restart_leaves_a_pod_that_is_there(pod: Path) -> None:
    (pod / "state").write_text("READY")
    result = launch("tpu_pod.sh", "restart", *POD, *TRAIN, fakes=pod / "fakes")
    assert result.returncode == 2
    assert verbs(pod) == ["describe"]
