"""Compiles one program for one slice; run as a process of its own, see `compile.py`.

`python -m dedn_jax.plan.worker REQUEST ANSWER`, both JSON files.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from dedn_jax.errors import InputError, one_line
from dedn_jax.model.kernels import Kernel, resolve_kernel
from dedn_jax.parallel.axes import ALONE
from dedn_jax.parallel.mesh import Layout
from dedn_jax.plan.count import count_flops
from dedn_jax.plan.hlo import read_program
from dedn_jax.plan.programs import Traced, extract_program, stored_maps, train_program
from dedn_jax.plan.shapes import Problem

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Two checks of the compiler: before it has scheduled anything, of what it then adds up to.
_MEMORY = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(
        r"required for .{,40}?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
    ),
)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles what is asked for.

    Args:
      request: `platform`, `topology`, `compiled_as`, `job` (train or extract), `config`, `problem`,
        `images` (of a step, filled up), `mapped` and `kept` (see
        `dedn_jax.parallel.resident.rule`).

    Returns:
      Bytes (`table`: of the arguments, those of feature maps that stay), FLOPs and traffic of a
      chip in one run; or `error` with its `kind`: topology, memory
      (with `needed` and `have` bytes) or compile.
    """
    config, problem = ConfigDict(request["config"]), Problem.from_json(request["problem"])
    images, mapped = request["images"], request["mapped"]
    try:
        devices = _devices(request)
    except Exception as error:  # whatever libtpu says of the name
        kind = "topology" if "INVALID_ARGUMENT" in str(error) else "libtpu"
        return {"kind": kind, "error": _line(error)}
    chips = len(devices)
    try:
        layout = Layout.of_devices(devices, config.distribution.attribute_shards)
    except InputError as error:
        return {"kind": "compile", "error": str(error)}
    axes = layout.axes if mapped else ALONE
    table = stored_maps(problem, request["kept"], layout)

    def program(images: int, kernel: Kernel) -> Traced:
        if request["job"] == "extract":
            return extract_program(config, problem.picture, images)
        return train_program(config, problem, images, axes, kernel, table)

    with jax.default_matmul_precision(config.model.precision):
        # A chip's part of the work if it is cut as it should be; a fused kernel does the same, but
        # its trace does not say how often it runs.
        share = count_flops(program(images if mapped else images // chips, "xla").jaxpr(layout))
        started = time.perf_counter()
        try:
            kernel = resolve_kernel(config.model.kernel, request["platform"])
            compiled = program(images, kernel).lower(layout).compile()
        except jax.errors.JaxRuntimeError as error:
            return _failure(error)
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    read = read_program(compiled.as_text(), chips)
    return {
        "chips": chips,
        "arguments": memory.argument_size_in_bytes,
        "table": 0 if table is None else table.nbytes // (layout.num_shards if table.axis else 1),
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops_xla": cost.get("flops", 0.0),
        "bytes_xla": cost.get("bytes accessed", 0.0),
        "flops_outside_loops": share.outside,
        "flops_inside_loops": share.inside,
        "flops_bfloat16": share.bfloat16,
        "trips": share.trips,
        "trips_compiled": sum(read.trips),
        "unknown_loops": read.unknown_loops,
        "collectives": {
            kind: {"count": t.runs, "bytes": t.bytes, "largest": t.largest}
            for kind, t in read.traffic.items()
        },
        "compile_seconds": seconds,
    }


def _devices(request: dict[str, Any]) -> list[Any]:
    if request["platform"] != "tpu":
        return jax.devices(request["platform"])
    options = {}
    if request["compiled_as"]:
        options["chip_config_name"] = request["compiled_as"]
    return topologies.get_topology_desc(
        platform="tpu", topology_name=request["topology"], **options
    ).devices


def _failure(error: Exception) -> dict[str, Any]:
    text = str(error)
    for pattern in _MEMORY:
        if match := pattern.search(text):
            needed, have = (float(match[i]) * _UNITS[match[i + 1]] for i in (1, 3))
            return {"kind": "memory", "error": _line(error), "needed": needed, "have": have}
    return {"kind": "compile", "error": _line(error)}


def _line(error: Exception) -> str:
    return one_line(error, 400)


def main() -> None:
    request, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(answer(json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
