"""Fused kernels, and where to use them."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError

Kernel = Literal["xla", "pallas"]
KERNELS = ("auto", "xla", "pallas")

# What `auto` means, by JAX platform: `pallas` only where `python -m benchmarks.attention_pool` has
# measured that it is faster. No accelerator has been measured yet; on the CPU kernels are
# interpreted, for tests.
_AUTO: dict[str, Kernel] = {"cpu": "xla", "gpu": "xla", "tpu": "xla"}


def resolve_kernel(choice: str, platform: str) -> Kernel:
    """The implementation of attention pooling, `xla` or `pallas`.

    XLA cannot shard a custom kernel along the batch by itself: over several devices it has to run
    in `parallel.mesh.Layout.map_over_batch`, as steps and predictions do.

    Args:
      choice: `auto`, `xla` or `pallas`.
      platform: as `jax.default_backend()` names it; an unknown one gets `xla`.

    Raises:
      InputError: unknown choice.
    """
    if choice == "auto":
        return _AUTO.get(platform, "xla")
    if choice == "xla":
        return "xla"
    if choice == "pallas":
        return "pallas"
    raise InputError(f"kernel={choice!r}, expected one of {', '.join(KERNELS)}")
