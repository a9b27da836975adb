"""`launch/slurm.sh`: the batch script, and what it does when a training ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.launch.common import calls, environment, launch, write_program

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
# srun ends with the largest status of all processes: a mistake, 2, has to be the largest. The trap
# makes bash wait for a process that saves.
one='trap : TERM INT; "$@"; status=$?; [ $status -ne 2 ] || status=255; exit $status'
# A process that ends before the others leaves them time to save.
srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task=8 --gpu-bind=none \\
  bash -c "$one" - \\
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
        (255, 0, 2, False),
        (3, 4, 0, True),
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
    ("statuses", "expected"), [((2, 3), 2), ((0, 0), 0), ((1, 3), None), ((143, 143), None)]
)
def test_slurm_knows_a_mistake_of_one_process(
    fakes: Path, statuses: tuple[int, int], expected: int | None
) -> None:
    """Where the others end with larger statuses, of which srun takes the largest."""
    fake = """#!/bin/sh
    while [ "$1" != bash ]; do shift; done
    largest=0
    for i in 0 1; do
      status=0
      SLURM_PROCID=$i "$@" || status=$?
      [ $status -le $largest ] || largest=$status
    done
    exit $largest
    """
    write_program(fakes / "srun", fake)
    ends = " ".join(map(str, statuses))
    dedn = f'#!/bin/bash\nstatuses=({ends})\nexit "${{statuses[$SLURM_PROCID]}}"\n'
    write_program(fakes / "dedn", dedn)
    result = subprocess.run(
        ["bash", "-c", slurm_script(*JOB, "--", "sweep", "--workdir=/x")],
        env=environment(fakes, SLURM_JOB_ID="17"),
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == (expected or 0)
    assert bool(calls(fakes.parent)) == (expected is None)  # queued again


def test_slurm_waits_for_a_process_that_saves(fakes: Path) -> None:
    """The signal goes to bash and to the process that it waits for."""
    write_program(fakes / "srun", '#!/bin/sh\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    saving = "#!/bin/bash\ntrap 'sleep 0.5; touch \"$0.saved\"; exit 143' TERM\n"
    write_program(fakes / "dedn", saving + "kill -TERM $PPID\nkill -TERM $$\nsleep 9\n")
    result = subprocess.run(
        ["bash", "-c", slurm_script(*JOB, *JOB_TRAIN)],
        env=environment(fakes, SLURM_JOB_ID="17"),
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0
    assert (fakes / "dedn.saved").exists()
    assert calls(fakes.parent) == [["scontrol", "requeue", "17"]]


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
