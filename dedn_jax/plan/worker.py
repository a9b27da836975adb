"""Compiles one program for one slice; run as a process of its own, see `compile.py`.

`python -m dedn_jax.plan.worker REQUEST ANSWER`, both JSON files.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from dedn_jax.errors import InputError, one_line
from dedn_jax.model.kernels import resolve_kernel
from dedn_jax.parallel.mesh import COLUMNS, STATE, Layout
from dedn_jax.plan.bundles import kernel_cycles
from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.collectives import count_program
from dedn_jax.plan.count import Flops
from dedn_jax.plan.gpus import cuda_tools, description, parse_device
from dedn_jax.plan.hbm import KERNEL
from dedn_jax.plan.hlo import Module, parse
from dedn_jax.plan.launches import assemble, count_launches, summary
from dedn_jax.plan.programs import (
    Program,
    abstract_features,
    abstract_network,
    attention_program,
    extract_program,
    train_program,
)
from dedn_jax.plan.schedule import Schedule, replay
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
      request: `platform`, `topology` (or the name of a GPU), `job` (train, extract or attention),
        `config`, `sizes`, `images` (of a step, padding included), `residency` (of the feature maps)
        and `folder` (where the compiler writes the code of kernels).

    Returns:
      Bytes (`resident`: of the resident feature maps, which are among the arguments; `parameters`;
      `model_state`: parameters and optimiser slots; `state`: a chip's share of them), FLOPs and
      collectives of a chip in one run; of a TPU the `schedule`, of a GPU the `launches` and how its
      kernels were `assembled`. Or `error` with
      its `kind`: topology, libtpu, memory (with `needed` and `have` bytes) or compile.
    """
    try:
        devices = _devices(request)
    except Exception as error:  # whatever libtpu says of the name
        kind = "topology" if "INVALID_ARGUMENT" in str(error) else "libtpu"
        return {"kind": kind, "error": one_line(error, 400)}
    config = ConfigDict(request["config"])
    try:
        layout = Layout.from_config(config, _params(request, config), devices)
        # Fused kernels choose their blocks by the chip.
        chip = AbstractMesh((), (), abstract_device=layout.mesh.abstract_mesh.abstract_device)
        with (
            jax.default_matmul_precision(config.model.precision),
            jax.sharding.use_abstract_mesh(chip),
        ):
            return _compile(request, config, layout)
    except InputError as error:
        return {"kind": "compile", "error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        return _failure(error)


def _devices(request: dict[str, Any]) -> list[Any]:
    if request["platform"] == "cuda":
        chip = parse_device(request["topology"]).chip
        return topologies.get_topology_desc(
            chip.name, "cuda", target_config=description(chip), topology="1x1x1"
        ).devices
    if request["platform"] != "tpu":
        return jax.devices(request["platform"])
    on = parse_slice(request["topology"])
    options = {"chip_config_name": on.chip.compiled_as} if on.chip.compiled_as else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=on.name, **options).devices
    return devices[:1] if request["job"] == "attention" else devices


def _params(request: dict[str, Any], config: ConfigDict) -> Any:
    """Of the model that is trained, their shapes; empty for other jobs."""
    if request["job"] != "train":
        return {}
    return abstract_network(config, Sizes.from_json(request["sizes"]), "cpu").params


def _compile(request: dict[str, Any], config: ConfigDict, layout: Layout) -> dict[str, Any]:
    program = _program(request, config, layout)
    share = _program(request, config, layout, counted=True).flops()
    started = time.perf_counter()
    compiled = program.lower(layout).compile()
    seconds = time.perf_counter() - started
    module = parse(_text(compiled, Path(request["folder"])))
    found = {"compile_seconds": seconds, **_measure(compiled, module, share, layout)}
    if request["job"] == "train":
        state, _, features, *_ = program.arguments
        shards = layout.num_shards if features and features.axis else 1
        found |= {
            "parameters": _nbytes(state.params),
            "state": _nbytes(state, layout),
            "model_state": _nbytes(state),
            "resident": features.nbytes // shards if features else 0,
        }
    if request["platform"] == "tpu":
        found["schedule"] = _schedule(module, request).numbers()
    if request["platform"] == "cuda":
        found["launches"] = count_launches(module)
        found["assembled"] = summary(assemble(Path(request["folder"]), cuda_tools()))
    return found


def _program(
    request: dict[str, Any], config: ConfigDict, layout: Layout, *, counted: bool = False
) -> Program:
    """The program, or one whose products can be counted: of one chip's work, evenly divided."""
    sizes, images, model = Sizes.from_json(request["sizes"]), request["images"], config.model
    if request["job"] == "extract":
        return extract_program(
            config, sizes.picture, images // (layout.mesh.size if counted else 1)
        )
    map_shape = sizes.channels, sizes.regions
    kernel = resolve_kernel(model.kernel, request["platform"], map_shape, model.precision)
    if counted:
        # The trace of a fused kernel, which does the same work, does not say how often it runs.
        kernel = "cpu"
    if request["job"] == "attention":
        return attention_program(config, sizes, images, kernel)
    features = abstract_features(sizes, request["residency"], layout)
    return train_program(config, sizes, images, layout, kernel, features)


def _text(compiled: Any, folder: Path) -> str:
    """The HLO text of a compiled program.

    libtpu 0.0.52 fails to give that of a program which leaves a scatter to the SparseCore (an
    `async-update` of several operands); what it wrote into `folder` when it compiled is the same.
    """
    try:
        return str(compiled.as_text())
    except jax.errors.JaxRuntimeError:
        written = sorted(folder.glob("*.after_codegen.txt"))
        if not written:
            raise
        return written[-1].read_text()


def _measure(compiled: Any, module: Module, share: Flops, layout: Layout) -> dict[str, Any]:
    """What the compiled program needs of a chip, beside the counted share of its work."""
    memory = compiled.memory_analysis()
    read = count_program(module, layout.mesh.size)
    return {
        "chips": layout.mesh.size,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops": share.total,
        "flops_bfloat16": share.bfloat16,
        "resident": 0,
        "unknown_loops": read.unknown_loops,
        "collectives": {
            kind: {"count": t.runs, "bytes": t.bytes, "largest": t.largest}
            for kind, t in read.traffic.items()
        },
    }


def _schedule(module: Module, request: dict[str, Any]) -> Schedule:
    """The schedule of a program for a TPU, with the cycles of its kernels."""
    kernels = [
        i.name
        for body in module.computations.values()
        for i in body
        if i.attribute("custom_call_target") == KERNEL
    ]
    cycles = kernel_cycles(Path(request["folder"]), kernels)
    return replay(module, parse_slice(request["topology"]), cycles)


def _nbytes(tree: Any, layout: Layout | None = None) -> int:
    """Bytes of all arrays of a training state, or a part of it; of a chip's, with a layout."""
    sizes = jax.tree.map(lambda x: math.prod(x.shape) * x.dtype.itemsize, tree)
    if layout is not None:
        specs = jax.tree.broadcast(layout.specs(tree, STATE), tree)
        sizes = jax.tree.map(
            lambda size, spec: size // (layout.num_shards if spec == COLUMNS else 1), sizes, specs
        )
    return sum(jax.tree.leaves(sizes))


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
