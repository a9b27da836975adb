"""The launch scripts: what they would run, and what they do with programs that stand in."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
# The environment's own first: its programs need not be on the path.
SHELLCHECK = shutil.which(
    "shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
COMMANDS = [s for s in SCRIPTS if s.name != "common.sh"]
# None of these is ever the real one in a test.
OUTSIDE = ("gcloud", "kubectl", "sbatch", "srun", "scontrol")


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A folder first on PATH, with programs that only record what they were given."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in OUTSIDE:
        write_program(
            folder / name,
            f"""#!{sys.executable}
import json, sys
call = [{name!r}, *sys.argv[1:]]
if {name!r} == "sbatch":
    call.append(sys.stdin.read())
with open({str(tmp_path / "calls.jsonl")!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
""",
        )
    return folder


def environment(fakes: Path | None = None, **more: str) -> dict[str, str]:
    left_out = {"DEDN", "DEDN_STATE", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"}
    left_out |= {"SLURM_RESTART_COUNT"}
    values = {k: v for k, v in os.environ.items() if k not in left_out}
    if fakes:
        values["PATH"] = f"{fakes}:{values['PATH']}"
    return values | more


def launch(
    script: str, *arguments: str, fakes: Path | None = None, folder: Path = LAUNCH, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(folder / script), *arguments],
        capture_output=True,
        text=True,
        env=environment(fakes, **more),
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def calls(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(what: Callable[[], object], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


# All scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck")
def test_shellcheck() -> None:
    result = subprocess.run(
        [str(SHELLCHECK), "-x", "-P", "SCRIPTDIR", *map(str, SCRIPTS)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_help(script: Path) -> None:
    result = launch(script.name, "--help")
    assert result.returncode == 0
    assert f"  launch/{script.name} " in result.stdout
    assert "--dry-run" in result.stdout
    assert "set -euo pipefail" not in result.stdout


# resume.sh


@pytest.fixture
def fake_dedn(tmp_path: Path) -> Path:
    """A `dedn` that ends with the statuses listed in the file `statuses`, one a start."""
    write_program(
        tmp_path / "dedn",
        f"""#!/usr/bin/env bash
echo "$@" >> {tmp_path}/calls
status=$(head -n 1 {tmp_path}/statuses)
sed -i 1d {tmp_path}/statuses
exit "$status"
""",
    )
    return tmp_path


def test_resume_dry_run() -> None:
    arguments = ("--attempts=3", "--", "--config=cub_gzsl", "--workdir=my runs/cub")
    result = launch("resume.sh", "--dry-run", *arguments)
    assert result.returncode == 0
    assert result.stdout == "up to 3 times: dedn train --config=cub_gzsl --workdir=my\\ runs/cub\n"


def test_resume_starts_again_after_signals_until_the_end(fake_dedn: Path) -> None:
    (fake_dedn / "statuses").write_text("143\n137\n130\n0\n")
    result = launch("resume.sh", "--", "--config=x", "--workdir=y", fakes=fake_dedn)
    assert result.returncode == 0
    assert (fake_dedn / "calls").read_text() == "train --config=x --workdir=y\n" * 4


@pytest.mark.parametrize(
    ("statuses", "flags", "expected", "starts"),
    [
        ("2\n0\n", "--attempts=5", 2, 1),
        ("143\n143\n143\n", "--attempts=2", 1, 2),
        ("143\n1\n", "--attempts=5", 1, 2),
        ("134\n1\n0\n", "--crashes", 0, 3),
        ("134\n2\n0\n", "--crashes", 2, 2),
    ],
)
def test_resume_gives_up(
    fake_dedn: Path, statuses: str, flags: str, expected: int, starts: int
) -> None:
    (fake_dedn / "statuses").write_text(statuses)
    status_file = fake_dedn / "final status"
    result = launch(
        "resume.sh", flags, f"--status-file={status_file}", "--", "--workdir=y", fakes=fake_dedn
    )
    assert result.returncode == expected
    assert status_file.read_text() == f"{expected}\n"
    assert len((fake_dedn / "calls").read_text().splitlines()) == starts


@pytest.mark.parametrize(
    "arguments", [(), ("--",), ("--attempts=0", "--", "x"), ("--pause=x", "--", "x"), ("--what",)]
)
def test_resume_refuses_bad_arguments(arguments: tuple[str, ...]) -> None:
    result = launch("resume.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("resume.sh: ")


# tpu_pod.sh

PLACE = ("--name=dedn", "--zone=us-west4-a", "--project=my-project")
POD = (*PLACE, "--type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite")
TRAIN = ("--", "--config=cub_gzsl", "--workdir=/mnt/shared/runs/cub")
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
    "launch setup.py pyproject.toml requirements.txt README.md LICENSE\n"
    f"{TPU} scp {ROOT}/build/dedn-jax-dedn.tar.gz dedn:dedn-jax.tar.gz {AT} --worker=all\n"
    f"{TPU} ssh dedn {AT} --worker=all '--command=mkdir -p dedn-jax && "
    f"tar -C dedn-jax -xzf dedn-jax.tar.gz && {WORKER} install --extra=tpu'\n"
)
START = (
    f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} start -- --config=cub_gzsl "
    "--workdir=/mnt/shared/runs/cub --distributed'\n"
)
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
        (("stop", *PLACE), f"{TPU} ssh dedn {AT} --worker=all '--command={WORKER} stop'\n"),
        (("restart", *POD, "--spot", *TRAIN), DESCRIBE + DELETE + CREATE + COPY + START),
        (
            ("restart", *POD, "--spot", "--queue", *TRAIN),
            QUEUE_DESCRIBE + QUEUE_DELETE + QUEUE_CREATE + QUEUE_DESCRIBE + COPY + START,
        ),
        (
            ("watch", *POD, "--spot", "--interval=30", "--then-delete", *TRAIN),
            f"# every 30 s:\n{DESCRIBE}{STATUS}# after a preemption:\n{DELETE}{CREATE}{COPY}{START}"
            f"# when finished:\n{DELETE}",
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
    assert remote == [WORKER, "start", "--", argument, "--distributed"]


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
    ],
)
def test_tpu_refuses_bad_arguments(arguments: tuple[str, ...], message: str, fakes: Path) -> None:
    result = launch("tpu_pod.sh", *arguments, fakes=fakes)
    assert result.returncode == 2
    assert result.stderr.startswith(f"tpu_pod.sh: {message}")
    assert result.stderr.count("\n") == 1 + message.count("\n")
    assert calls(fakes.parent) == []


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


# gke.sh

SLICE = (
    "--name=cub",
    "--accelerator=tpu-v5-lite-podslice",
    "--topology=16x16",
    "--image=us-docker.pkg.dev/my-project/dedn/dedn:1",
    "--claim=shared",
    "--mount=/mnt/shared",
)


def rendered(*arguments: str) -> dict:
    result = launch("gke.sh", "render", *arguments)
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def test_gke_manifest() -> None:
    argument = """--workdir=/mnt/shared/my "runs"/it's \\ & ${NAME} $(HOSTNAME)"""
    manifest = rendered(*SLICE, "--", "--config=cub_gzsl", argument)
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    assert manifest["metadata"]["name"] == "cub"
    assert manifest["metadata"]["namespace"] == "default"
    assert manifest["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    spec = manifest["spec"]
    assert spec["network"] == {
        "enableDNSHostnames": True,
        "subdomain": "cub",
        "publishNotReadyAddresses": True,
    }
    assert spec["failurePolicy"] == {
        "maxRestarts": 100,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    [replicated] = spec["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == ("train", 1)
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == 64
    assert job["backoffLimit"] == 0
    on_exit = {"containerName": "dedn", "operator": "In", "values": [2]}
    assert job["podFailurePolicy"] == {"rules": [{"action": "FailJob", "onExitCodes": on_exit}]}
    template = job["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "false"}
    pods = template["spec"]
    assert pods["restartPolicy"] == "Never"
    assert pods["terminationGracePeriodSeconds"] == 300
    assert "serviceAccountName" not in pods
    assert pods["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    [container] = pods["containers"]
    assert container["name"] == "dedn"
    assert container["image"] == "us-docker.pkg.dev/my-project/dedn/dedn:1"
    assert container["args"] == [
        "train",
        "--config=cub_gzsl",
        argument.replace("$(", "$$("),
        "--distributed",
    ]
    assert {p["containerPort"] for p in container["ports"]} == {8471, 8482}
    assert container["resources"] == {
        "requests": {"google.com/tpu": 4},
        "limits": {"google.com/tpu": 4},
    }
    assert container["volumeMounts"] == [
        {"name": "shared", "mountPath": "/mnt/shared"},
        {"name": "memory", "mountPath": "/dev/shm"},
    ]
    assert pods["volumes"] == [
        {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]


def test_gke_options() -> None:
    flags = ("--namespace=research", "--spot", "--gcsfuse", "--service-account=reader")
    numbers = ("--max-restarts=7", "--grace=45", "--topology=2x2x4")
    train = ("--", "--workdir=/mnt/shared/x")
    manifest = rendered(*SLICE, *flags, *numbers, *train)
    assert manifest["metadata"]["namespace"] == "research"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 7
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pods = job["template"]["spec"]
    assert pods["terminationGracePeriodSeconds"] == 45
    assert pods["serviceAccountName"] == "reader"
    assert pods["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    single = rendered(*SLICE, "--topology=2x4", "--chips=8", *train)
    job = single["spec"]["replicatedJobs"][0]["template"]["spec"]
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (job["completions"], limits) == (1, {"google.com/tpu": 8})


def test_gke_applies_what_it_renders(fakes: Path) -> None:
    write_program(fakes / "kubectl", f'#!/bin/sh\necho "$@" > {fakes}/got\ncat >> {fakes}/got\n')
    train = ("--", "--workdir=/mnt/shared/a b")
    assert launch("gke.sh", "apply", "--context=c", *SLICE, *train, fakes=fakes).returncode == 0
    first, _, manifest = (fakes / "got").read_text().partition("\n")
    assert first == "--context=c --namespace=default apply --filename=-"
    assert yaml.safe_load(manifest) == rendered(*SLICE, *train)


def test_gke_dry_run(fakes: Path) -> None:
    def printed(*arguments: str) -> str:
        result = launch("gke.sh", *arguments, "--dry-run", "--name=cub", fakes=fakes)
        assert result.returncode == 0, result.stderr
        return result.stdout

    here, selector = "kubectl --namespace=default", "jobset.sigs.k8s.io/jobset-name=cub"
    assert printed("delete") == f"{here} delete jobset cub\n"
    assert printed("status") == (
        f"{here} get jobset cub\n{here} get pods --selector={selector} --output=wide\n"
    )
    assert printed("logs", "--worker=5") == (
        f"{here} logs --selector={selector},batch.kubernetes.io/job-completion-index=5 "
        "--container=dedn --follow --tail=100\n"
    )
    assert printed("logs", "--worker=all") == (
        f"{here} logs --selector={selector} --container=dedn --follow --prefix "
        "--max-log-requests=1000 --tail=100\n"
    )
    train = ("--", "--workdir=/mnt/shared/a b")
    apply = launch("gke.sh", "apply", "--dry-run", *SLICE, "--spot", *train, fakes=fakes).stdout
    assert calls(fakes.parent) == []
    render = shlex.split(apply.partition(" | ")[0])
    assert apply.partition(" | ")[2] == f"{here} apply --filename=-\n"
    again = subprocess.run(render, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(again) == rendered(*SLICE, "--spot", *train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", *SLICE), "nothing after --"),
        (("render", *SLICE, "--name=Cub", *TRAIN), "--name=Cub, expected up to 40"),
        (("render", *SLICE, "--topology=16", *TRAIN), "--topology=16, expected"),
        (("render", *SLICE, "--chips=3", *TRAIN), "--chips=3 does not divide the 256 chips"),
        (("render", *SLICE, "--", "--workdir=/elsewhere"), "--workdir=/elsewhere, expected a path"),
        (("render", *SLICE, "--", "--workdir=/mnt/shared/../x"), "--workdir=/mnt/shared/../x"),
        (("render", *SLICE, "--image=a b", *TRAIN), "--image=a b, expected"),
        (("delete",), "--name=, expected"),
        (("delete", "--name=cub", "--worker=x"), "--worker=x, expected"),
    ],
)
def test_gke_refuses_bad_arguments(arguments: tuple[str, ...], message: str, fakes: Path) -> None:
    result = launch("gke.sh", *arguments, fakes=fakes)
    assert result.returncode == 2
    assert result.stderr.startswith(f"gke.sh: {message}")
    assert calls(fakes.parent) == []


def test_dockerfile_copies_what_installation_reads() -> None:
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [w for line in lines if line.startswith("COPY ") for w in line.split()[1:-1]]
    assert {"setup.py", "pyproject.toml", "requirements.txt", "README.md"} <= set(copied)
    assert {"dedn_jax", "configs"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    sent = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(sent)


# slurm.sh

SLURM_HEAD = """#!/usr/bin/env bash
#SBATCH --job-name=cub
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --partition=gpu
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
told_to_end=
trap 'told_to_end=1' TERM
status=0
# A process that ends before the others leaves them time to save.
srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task=8 --gpu-bind=none \\
  dedn train --config=cub_gzsl '--workdir=/shared/it'\\''s here' --distributed || status=$?
"""
JOB = ("--name=cub", "--nodes=2", "--gpus=8", "--time=08:00:00", "--partition=gpu")
JOB_TRAIN = ("--", "--config=cub_gzsl", "--workdir=/shared/it's here")


def slurm_script(*arguments: str) -> str:
    result = launch("slurm.sh", "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    first, _, rest = result.stdout.partition("\n")
    assert first == "sbatch <<'END_OF_SCRIPT'"
    assert rest.endswith("\nEND_OF_SCRIPT\n")
    return rest.removesuffix("END_OF_SCRIPT\n")


def test_slurm_dry_run() -> None:
    script = slurm_script(*JOB, *JOB_TRAIN)
    assert script.startswith(SLURM_HEAD)
    assert script.endswith('scontrol requeue "$SLURM_JOB_ID"\n')
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_slurm_one_task_a_node() -> None:
    script = slurm_script(*JOB, "--tasks=node", *JOB_TRAIN)
    assert "#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=8\n" in script
    assert "\nexport JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in script


def test_slurm_submits_what_it_prints(fakes: Path) -> None:
    assert launch("slurm.sh", *JOB, *JOB_TRAIN, fakes=fakes).returncode == 0
    assert calls(fakes.parent) == [["sbatch", slurm_script(*JOB, *JOB_TRAIN)]]


@pytest.mark.parametrize(
    ("status", "restarts", "expected", "requeued"),
    [
        (0, 0, 0, False),
        (2, 0, 2, False),
        (143, 0, 0, True),
        (134, 4, 0, True),
        (143, 5, 143, False),
    ],
)
def test_slurm_job(fakes: Path, status: int, restarts: int, expected: int, requeued: bool) -> None:
    write_program(fakes / "srun", f"#!/bin/sh\nexit {status}\n")
    result = subprocess.run(
        ["bash", "-c", slurm_script(*JOB, "--restarts=5", *JOB_TRAIN)],
        env=environment(fakes, SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(restarts)),
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == expected
    assert calls(fakes.parent) == ([["scontrol", "requeue", "17"]] if requeued else [])


def test_slurm_job_that_is_cancelled_stays_so(fakes: Path) -> None:
    write_program(fakes / "srun", "#!/bin/sh\nkill -TERM $PPID\nexit 143\n")
    result = subprocess.run(
        ["bash", "-c", slurm_script(*JOB, *JOB_TRAIN)],
        env=environment(fakes, SLURM_JOB_ID="17"),
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 143
    assert calls(fakes.parent) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (JOB, "nothing after --"),
        (("--nodes=0", *JOB_TRAIN), "--nodes=0, expected a number from 1"),
        (("--time=soon", *JOB_TRAIN), "--time=soon, expected a time"),
        (("--tasks=core", *JOB_TRAIN), "--tasks=core, expected gpu or node"),
        (("--name=a b", *JOB_TRAIN), "--name=a b, expected"),
        (("--", "--workdir=runs"), "--workdir=runs, expected an absolute path"),
        (("--", "--workdir=/x", "--processes=2"), "--processes=2: processes find each other"),
    ],
)
def test_slurm_refuses_bad_arguments(arguments: tuple[str, ...], message: str, fakes: Path) -> None:
    result = launch("slurm.sh", *arguments, fakes=fakes)
    assert result.returncode == 2
    assert result.stderr.startswith(f"slurm.sh: {message}")
    assert calls(fakes.parent) == []


# local.sh

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


# In the background Ctrl-C is ignored, and no shell can trap what it was told to ignore.
_TAKING_INTERRUPTS = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


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
        (("--processes=2",), "'' after --, expected train or features extract"),
        (("--processes=2", "--", "evaluate"), "'evaluate' after --, expected"),
        (("--processes=2", "--", "features", "check"), "'features' after --, expected"),
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
