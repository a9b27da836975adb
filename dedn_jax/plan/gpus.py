"""GPUs that need not be there: their figures, and their description for XLA."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
from pathlib import Path

from dedn_jax.errors import InputError
from dedn_jax.plan.chips import Chip, Slice

# Products of float32 operands: on the CUDA cores (67 TFLOP/s), or as tensorfloat32 (494.5).
_PASSES = {"float32": 989.4 / 67, "tensorfloat32": 2.0, "bfloat16": 2.0}


# Source: NVIDIA's data sheets of the H100 and the H200, SXM, without sparsity. A link is all of a
# card's NVLink, one direction.
_H100 = Chip(
    *("h100", 989.4e12, 1.98e9, 80e9, 3.35e12, 50 * 2**20, 450e9, 1, 8, 1),
    passes=_PASSES,
    platform="cuda",
)
_H200 = dataclasses.replace(_H100, name="h200", memory=141e9, bandwidth=4.8e12)
GPUS = {c.name: c for c in (_H100, _H200)}

# Seconds that a launch of next to nothing takes, until the next begins. Source: NVIDIA, Getting
# Started with CUDA Graphs, 2019: 3.8 microseconds for a kernel of 2.9, launched one after another.
LAUNCH = 2e-6

# What XLA asks a device for. Source: NVIDIA, H100 Tensor Core GPU Architecture, and the CUDA
# Programming Guide's table for compute capability 9.0.
_DESCRIPTION = """\
platform_name: "CUDA"
device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: {static_shared}
  shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {shared_of_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: {cache}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  clock_rate_ghz: {clock}
}}
"""


def parse_device(name: str) -> Slice:
    """One GPU, by the name of its kind.

    Raises:
      InputError: an unknown one.
    """
    if name not in GPUS:
        raise InputError(f"--device: {name!r}, expected {' or '.join(GPUS)}")
    return Slice(name, GPUS[name], (1,))


def description(chip: Chip) -> str:
    """XLA's description of a GPU, a `GpuTargetConfigProto` as text."""
    return _DESCRIPTION.format(
        name=chip.name.upper(),
        static_shared=48 * 2**10,
        shared=227 * 2**10,
        shared_of_core=228 * 2**10,
        cache=int(chip.on_chip),
        bandwidth=int(chip.bandwidth),
        memory=int(chip.memory),
        clock=chip.clock / 1e9,
    )


def cuda_tools() -> Path:
    """The folder of NVIDIA's compiler, with `bin/ptxas`.

    Raises:
      InputError: a package is missing.
    """
    plugin = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
    # As the packages for CUDA 12 and 13 lay it out.
    for name, folder in itertools.product(("cuda_nvcc", "cu13"), sys.path):
        tools = Path(folder, "nvidia", name)
        if plugin and (tools / "bin/ptxas").is_file():
            return tools
    raise InputError("dedn plan --device needs XLA for CUDA: pip install 'dedn-jax[gpu-plan]'")
