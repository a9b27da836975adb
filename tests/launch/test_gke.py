"""`launch/gke.sh`: the JobSet that it renders and applies."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch.common import TRAIN, calls, launch, write_program

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
    assert (replicated["name"], replicated["replicas"]) == ("dedn", 1)
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "--seeds=3", "--workdir=/mnt/shared/x"),
        ("features", "extract", "--out=/mnt/shared/x"),
        ("evaluate", "--workdir=gs://bucket/x"),
    ],
    ids=lambda value: value[0],
)
def test_gke_runs_every_job(arguments: tuple[str, ...]) -> None:
    job = rendered(*SLICE, "--", *arguments)["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    assert container["args"] == [*arguments, "--distributed"]


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
        (("render", *SLICE, "--", "features", "extract", "--out=/x"), "--out=/x, expected a path"),
        (("render", *SLICE, "--", "report", "--workdir=/x"), "'report' after --, expected train"),
        (("delete",), "--name=, expected"),
        (("delete", "--name=cub", "--worker=x"), "--worker=x, expected"),
    ],
)
def test_gke_refuses_bad_arguments(arguments: tuple[str, ...], message: str, fakes: Path) -> None:
    result = launch("gke.sh", *arguments, fakes=fakes)
    assert result.returncode == 2
    assert result.stderr.startswith(f"gke.sh: {message}")
    assert calls(fakes.parent) == []
