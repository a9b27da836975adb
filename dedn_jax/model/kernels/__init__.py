"""Fused kernels, and where they are worth their while."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError

Kernel = Literal["xla", "pallas"]
KERNELS = ("auto", "xla", "pallas")

# What `auto` means, by JAX platform. A platform gets `pallas` once `python -m
# benchmarks.attention_pool` has shown there that it wins; no accelerator has been measured yet. On
# the CPU kernels are interpreted, which is for tests.
_AUTO: dict[str, Kernel] = {"cpu": "xla", "gpu": "xla", "tpu": "xla"}


def resolve_kernel(choice: str, platform: str) -> Kernel:
    """How to pool: `xla` or `pallas`.

    XLA cannot cut a kernel of ours along the batch by itself: over several devices it has to run in
    `parallel.mesh.Layout.map_over_batch`, as steps and predictions do.

    Args:
      choice: `auto`, `xla` or `pallas`.
      platform: as `jax.default_backend()` names it; one not known here gets `xla`.

    Raises:
      InputError: an unknown choice.
    """
    if choice == "auto":
        return _AUTO.get(platform, "xla")
    if choice == "xla":
        return "xla"
    if choice == "pallas":
        return "pallas"
    raise InputError(f"kernel={choice!r}, expected one of {', '.join(KERNELS)}")
