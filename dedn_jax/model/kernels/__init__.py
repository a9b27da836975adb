"""Fused kernels, and where to use them."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError

# XLA's own operations, arranged for that platform, or the fused kernels.
Kernel = Literal["cpu", "gpu", "tpu", "pallas"]
KERNELS = ("auto", "xla", "pallas")

# What `auto` means, by JAX platform: `pallas` only where `python -m benchmarks.attention_pool` has
# measured that it is faster. No accelerator has been measured yet; on the CPU kernels are
# interpreted, for tests.
_AUTO: dict[str, str] = {"cpu": "xla", "gpu": "xla", "tpu": "xla"}
_XLA: dict[str, Kernel] = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}


def resolve_kernel(choice: str, platform: str) -> Kernel:
    """The implementation of attention pooling.

    XLA cannot shard a custom kernel along the batch by itself: over several devices it has to run
    in `parallel.mesh.Layout.map_over_batch`, as steps and predictions do.

    Args:
      choice: `auto`, `xla` or `pallas`.
      platform: as `jax.default_backend()` names it; an unknown one is taken for a CPU.

    Raises:
      InputError: unknown choice.
    """
    if choice == "auto":
        choice = _AUTO.get(platform, "xla")
    if choice == "xla":
        return _XLA.get(platform, "cpu")
    if choice == "pallas":
        return "pallas"
    raise InputError(f"kernel={choice!r}, expected one of {', '.join(KERNELS)}")
