"""Runs the worker in a process of its own and keeps the compiler's log output away."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dedn_jax.errors import InputError
from dedn_jax.plan.bundles import libtpu_arguments
from dedn_jax.plan.chips import EXAMPLES
from dedn_jax.plan.gpus import cuda_tools

# Simulated CPU devices, for tests.
CPU_DEVICES = 8


def compile_program(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The worker's answer to `request`, see `worker.answer`.

    Args:
      request: as JSON.
      timeout: seconds after which the worker is killed.

    Raises:
      InputError: libtpu is missing, the slice is unknown, the compiler crashed, failed or hung.
    """
    name, platform = request["topology"], request["platform"]
    flag = "--device" if platform == "cuda" else "--topology"
    if platform == "tpu" and importlib.util.find_spec("libtpu") is None:
        raise InputError("dedn plan needs libtpu: pip install 'dedn-jax[tpu-plan]'")
    tools = cuda_tools() if platform == "cuda" else None
    with tempfile.TemporaryDirectory(prefix="dedn_plan_") as folder:
        question, reply = Path(folder, "request.json"), Path(folder, "answer.json")
        code = Path(folder, "code")
        question.write_text(json.dumps(request | {"folder": str(code)}))
        worker = [sys.executable, "-m", "dedn_jax.plan.worker", str(question), str(reply)]
        status, output = _run(worker, timeout, _options(request, code, tools))
        if status is None:
            raise InputError(
                f"{flag}: {name}: not compiled within {timeout:g} s; give a larger --timeout"
            )
        if status or not reply.is_file():
            last = output[-1][:300] if output else "no message"
            raise InputError(f"{flag}: {name}: the compiler ended with status {status}: {last}")
        answer: dict[str, Any] = json.loads(reply.read_text())
    kind = answer.get("kind", "memory")
    if kind != "memory":
        examples = f"; examples: {EXAMPLES}" if kind == "topology" else ""
        raise InputError(f"{flag}: {name}: {answer['error']}{examples}")
    return answer


def _options(request: dict[str, Any], code: Path, tools: Path | None) -> dict[str, str]:
    """Environment variables by which the compiler writes the code of kernels into `code`."""
    flags = [f"--xla_force_host_platform_device_count={CPU_DEVICES}"]
    if request["platform"] != "cpu":
        flags.append(f"--xla_dump_to={code}")
    if tools:
        # JAX 0.11 writes no kernels unless it is asked for them.
        flags += [f"--xla_gpu_cuda_data_dir={tools}", "--xla_dump_emitter_re=.*"]
    options = {"XLA_FLAGS": " ".join(flags)}
    # Every operation's code is written: half as long again where there are many.
    if request["platform"] == "tpu" and request["config"]["model"]["kernel"] != "xla":
        options["LIBTPU_INIT_ARGS"] = libtpu_arguments(code)
    return options


def _run(
    command: list[str], timeout: float, options: dict[str, str]
) -> tuple[int | None, list[str]]:
    """Exit status, None after a timeout, and the lines of output."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to query
        "TPU_LOG_DIR": "disabled",
        # Without it libtpu locks the chips of this machine, which are not used here.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    environment |= options
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return None, []
    lines = done.stdout.decode(errors="replace").splitlines()
    return done.returncode, [line.strip() for line in lines if line.strip()]
