"""A pod of two workers on this machine: a fake gcloud whose commands really run there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.launch.common import LAUNCH, POD, launch, write_program

_GCLOUD = """#!{python}
# Each worker has a home of its own. A file `preempt` takes the TPU away.
import json, os, pathlib, shutil, signal, subprocess, sys
top = pathlib.Path({top!r})
words = sys.argv[1:]
flags = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
what, verb = words[2:4]
with open(top / "gcloud.jsonl", "a") as file:
    file.write(json.dumps([what, verb, flags.get("command", "")]) + "\\n")
state = top / "state"
workers = [top / f"worker-{{i}}" for i in range(2)]

def take_away():
    for home in workers:
        for pid in home.glob("dedn-jax-run/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(home, ignore_errors=True)

if verb == "describe":
    if (top / "preempt").exists():
        (top / "preempt").unlink()
        state.write_text("PREEMPTED")
        take_away()
    if not state.exists():
        sys.exit("ERROR: (gcloud.compute.tpus) NOT_FOUND: no such resource")
    states = state.read_text().split()
    if len(states) > 1:
        state.write_text(" ".join(states[1:]))
    print(states[0])
elif verb == "delete":
    state.unlink()
    take_away()
elif verb == "create":
    state.write_text("WAITING_FOR_RESOURCES ACTIVE" if what == "queued-resources" else "READY")
    for home in workers:
        home.mkdir()
elif verb == "scp":
    for home in workers:
        shutil.copy(words[4], home / words[5].split(":")[1])
elif verb == "ssh":
    chosen = workers if flags["worker"] == "all" else [workers[int(flags["worker"])]]
    # As the real one: every worker runs the command, and one that fails is a failure.
    failed = 0
    for home in chosen:
        command = ["bash", "-c", flags["command"]]
        result = subprocess.run(command, cwd=home, env=os.environ | dict(HOME=str(home)))
        failed |= result.returncode
    sys.exit(failed)
"""

# `-m venv` with a pip that does nothing, and a dedn that notes its arguments and does as told.
_PYTHON = """#!/usr/bin/env bash
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\n' > "$3/bin/pip"
cat > "$3/bin/dedn" <<'END'
#!/usr/bin/env bash
echo "$@" >> "$HOME/arguments"
# steps N: so many, of which one of the processes writes the metrics.
steps() {
  mkdir -p "$run"
  for ((step = 0; step < $1; step++)); do
    sleep 0.1
    case "$HOME" in *worker-0) echo '{}' >>"$run/metrics.jsonl" ;; esac
  done
}
run={run}
{ending}
END
chmod +x "$3/bin/pip" "$3/bin/dedn"
"""


class Pod:
    """The pod, and `tpu_pod.sh` in a small checkout of its own.

    Attributes:
      folder: of the pod: homes of the workers, and `shared`, which both have.
      run: the work directory of the run.
    """

    def __init__(self, folder: Path, fakes: Path) -> None:
        self.folder, self._fakes = folder, fakes
        self.run = folder / "shared" / "my run"
        self.run.parent.mkdir()
        text = _GCLOUD.format(python=sys.executable, top=str(folder))
        write_program(fakes / "gcloud", text)
        self.checkout = folder / "checkout"
        shutil.copytree(LAUNCH, self.checkout / "launch")
        worker = self.checkout / "launch" / "worker.sh"
        text = worker.read_text()
        assert "--pause=10 " in text  # between two starts: tests do not wait so long
        worker.write_text(text.replace("--pause=10 ", "--pause=1 "))
        for name in ("dedn_jax", "configs"):
            (self.checkout / name).mkdir()
        files = "setup.py pyproject.toml requirements.txt README.md LICENSE NOTICE"
        for name in files.split():
            (self.checkout / name).touch()

    def is_now(self, state: str) -> None:
        """A TPU in that state, and its workers."""
        (self.folder / "state").write_text(state)
        for i in range(2):
            (self.folder / f"worker-{i}").mkdir()

    def watch(self, *flags: str, ending: str) -> subprocess.CompletedProcess[str]:
        """Runs `tpu_pod.sh watch`; `ending` is what dedn does: shell text, `$run` its directory."""
        text = _PYTHON.replace("{ending}", ending).replace("{run}", f"'{self.run}'")
        write_program(self._fakes / "python3.13", text)
        flags = (*POD, "--spot", "--interval=1", *flags)
        return self.launch("watch", *flags, "--", f"--workdir={self.run}")

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `tpu_pod.sh`."""
        folder = self.checkout / "launch"
        return launch("tpu_pod.sh", *arguments, fakes=self._fakes, folder=folder)

    @property
    def verbs(self) -> list[str]:
        """Of all calls of gcloud."""
        return [verb for _, verb, _ in self._calls()]

    def commands(self, word: str) -> int:
        """How many commands with that word ran on the workers."""
        return sum(f"worker.sh {word}" in command for _, _, command in self._calls())

    def _calls(self) -> list[list[str]]:
        lines = (self.folder / "gcloud.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
