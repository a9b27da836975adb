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
from dedn_jax.model.kernels import resolve_kernel
from dedn_jax.parallel.mesh import Layout
from dedn_jax.plan.count import Flops
from dedn_jax.plan.hlo import read_program
from dedn_jax.plan.programs import abstract_features, extract_program, train_program
from dedn_jax.plan.sizes import Sizes

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The compiler checks memory twice: before it has scheduled anything, and what that adds up to.
_MEMORY = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(
        r"required for .{,40}?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
    ),
)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles a program and measures it.

    Args:
      request: `platform`, `topology`, `compiled_as`, `job` (train or extract), `config`, `sizes`,
        `images` (of a step, padding included) and `residency` (of the feature maps).

    Returns:
      Bytes (`resident`: of the resident feature maps, which are among the arguments), FLOPs and
      traffic of a chip in one run; or `error` with its `kind`: topology, libtpu, memory (with
      `needed` and `have` bytes) or compile.
    """
    try:
        devices = _devices(request)
    except Exception as error:  # whatever libtpu says of the name
        kind = "topology" if "INVALID_ARGUMENT" in str(error) else "libtpu"
        return {"kind": kind, "error": one_line(error, 400)}
    config = ConfigDict(request["config"])
    try:
        layout = Layout.of_devices(devices, config.distribution.attribute_shards)
        with jax.default_matmul_precision(config.model.precision):
            return _compile(request, config, layout)
    except InputError as error:
        return {"kind": "compile", "error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        return _failure(error)


def _devices(request: dict[str, Any]) -> list[Any]:
    if request["platform"] != "tpu":
        return jax.devices(request["platform"])
    options = {}
    if request["compiled_as"]:
        options["chip_config_name"] = request["compiled_as"]
    return topologies.get_topology_desc(
        platform="tpu", topology_name=request["topology"], **options
    ).devices


def _compile(request: dict[str, Any], config: ConfigDict, layout: Layout) -> dict[str, Any]:
    sizes, images = Sizes.from_json(request["sizes"]), request["images"]
    features = abstract_features(sizes, request["residency"], layout)
    # FLOPs are counted in a program of one chip's work, evenly divided.
    if request["job"] == "extract":
        counted = extract_program(config, sizes.picture, images // layout.mesh.size)
        program = extract_program(config, sizes.picture, images)
    else:
        # The trace of a fused kernel, which does the same work, does not say how often it runs.
        counted = train_program(config, sizes, images, layout, "cpu", features)
        kernel = resolve_kernel(config.model.kernel, request["platform"])
        program = train_program(config, sizes, images, layout, kernel, features)
    share = counted.flops()
    started = time.perf_counter()
    compiled = program.lower(layout).compile()
    return {
        "compile_seconds": time.perf_counter() - started,
        "resident": features.nbytes // (layout.num_shards if features.axis else 1)
        if features
        else 0,
        **_measure(compiled, share, layout.mesh.size),
    }


def _measure(compiled: Any, share: Flops, chips: int) -> dict[str, Any]:
    """What the compiled program needs of a chip, beside the counted share of its work."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    read = read_program(compiled.as_text(), chips)
    return {
        "chips": chips,
        "arguments": memory.argument_size_in_bytes,
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
    }


def _failure(error: Exception) -> dict[str, Any]:
    """The compiler's error, with the bytes that it names where memory ran out."""
    text, line = str(error), one_line(error, 400)
    for pattern in _MEMORY:
        if match := pattern.search(text):
            needed, have = (float(match[i]) * _UNITS[match[i + 1]] for i in (1, 3))
            return {"kind": "memory", "error": line, "needed": needed, "have": have}
    return {"kind": "compile", "error": line}


def main() -> None:
    request, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(answer(json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
