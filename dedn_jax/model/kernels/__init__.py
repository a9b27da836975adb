"""Fused kernels, and where to use them."""

from __future__ import annotations

from typing import Literal

from dedn_jax.errors import InputError
from dedn_jax.model.kernels.processor import multiplies_bfloat16

# XLA's own operations, arranged for that platform (on a CPU also with products in bfloat16), or the
# fused kernels, which a GPU has of its own.
Kernel = Literal["cpu", "cpu_bfloat16", "gpu", "tpu", "pallas", "pallas_gpu"]
KERNELS = ("auto", "xla", "pallas")
_XLA: dict[str, Kernel] = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}

# Of TPUs: on a GPU, `auto` takes the kernels where they were measured.
AUTO_NOTE = (
    "attention pooling: fused kernels, as model.kernel=auto means here (scheduled, not measured; "
    "model.kernel=xla has XLA's own operations)"
)


def resolve_kernel(
    choice: str, platform: str, map_shape: tuple[int, int], precision: str = "float32"
) -> Kernel:
    """The implementation of attention pooling.

    XLA cannot shard a custom kernel along the batch by itself: over several devices it has to run
    in `parallel.mesh.Layout.map_over_batch`, as steps and predictions do.

    Args:
      choice: `auto`, `xla` or `pallas`.
      platform: as `jax.default_backend()` names it; an unknown one is taken for a CPU.
      map_shape: channels and regions of an image.
      precision: of products, `config.model.precision`. A CPU takes bfloat16 where it has
        instructions for it; elsewhere they would be slower than in float32.

    Raises:
      InputError: unknown choice.
    """
    if choice == "auto":
        choice = "pallas" if _pallas_wins(platform, map_shape, precision) else "xla"
    if choice == "xla":
        found = _XLA.get(platform, "cpu")
        native = found == "cpu" and precision == "bfloat16" and multiplies_bfloat16()
        return "cpu_bfloat16" if native else found
    if choice == "pallas":
        return "pallas_gpu" if _XLA.get(platform) == "gpu" else "pallas"
    raise InputError(f"kernel={choice!r}, expected one of {', '.join(KERNELS)}")


def _pallas_wins(platform: str, map_shape: tuple[int, int], precision: str) -> bool:
    """On an H100 or H200 in bfloat16, and on TPUs where an image fits into vector memory.

    For TPUs libtpu's schedule says so (`python -m benchmarks.schedule --only=attention`, with
    `--kernel=xla` beside it), for attention alone, its gradient included, of 50 images of CUB in
    bfloat16: v5e 1.14 ms where XLA's own operations take 1.60, v6e 0.35 for 1.11; for 2 images (v6e
    0.044 for 0.057), in float32 (v6e 1.84 for 2.40), for the attributes of SUN (v5e 0.44 for 0.70,
    v6e 0.14 for 0.68). Nobody has measured it there. On a CPU kernels are interpreted, for tests.
    """
    # Imported here: Pallas takes a second to import.
    if _XLA.get(platform) == "gpu":
        from dedn_jax.model.kernels import gpu_blocks

        return gpu_blocks.wins(map_shape, precision)
    if platform != "tpu":
        return False
    from dedn_jax.model.kernels import tpu_blocks

    return tpu_blocks.fits(map_shape)
