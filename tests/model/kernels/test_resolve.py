"""Which kernel a choice means."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from dedn_jax.errors import InputError
from dedn_jax.model.kernels import KERNELS, resolve_kernel

CUB = 2048, 196


@pytest.mark.parametrize("platform", ["cpu", "gpu", "other"])
def test_by_itself_xla(platform: str) -> None:
    xla, fused = ("gpu", "pallas_gpu") if platform == "gpu" else ("cpu", "pallas")
    assert [resolve_kernel(c, platform, CUB) for c in KERNELS] == [xla, xla, fused]


@pytest.mark.parametrize(
    ("kind", "map_shape", "expected"),
    [
        ("TPU v5 lite", CUB, "pallas"),
        ("TPU v6 lite", CUB, "pallas"),
        # A core has 64 MiB of vector memory, which images of 64 x 64 regions in float32 exceed.
        ("TPU v5", CUB, "pallas"),
        ("TPU v5", (2048, 4096), "tpu"),
        # 16 MiB.
        ("TPU v4", CUB, "tpu"),
    ],
)
def test_on_tpus_fused_where_it_fits(kind: str, map_shape: tuple[int, int], expected: str) -> None:
    device = AbstractDevice(kind, 2 if kind in ("TPU v4", "TPU v5") else 1, "tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        choices = [resolve_kernel(c, "tpu", map_shape) for c in KERNELS]
    assert choices == [expected, "tpu", "pallas"]


@pytest.mark.parametrize(
    ("kind", "map_shape", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", CUB, "bfloat16", "pallas_gpu"),
        ("NVIDIA GH200 480GB", CUB, "bfloat16", "pallas_gpu"),
        ("NVIDIA H100 80GB HBM3", CUB, "float32", "gpu"),
        ("NVIDIA H100 80GB HBM3", CUB, "tensorfloat32", "gpu"),
        ("NVIDIA H100 80GB HBM3", (2048, 2048), "bfloat16", "gpu"),
        ("NVIDIA A100-SXM4-80GB", CUB, "bfloat16", "gpu"),
    ],
)
def test_on_gpus_fused_where_it_was_measured(
    kind: str, map_shape: tuple[int, int], precision: str, expected: str
) -> None:
    device = AbstractDevice(kind, 132, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        choices = [resolve_kernel(c, "gpu", map_shape, precision) for c in KERNELS]
    assert choices == [expected, "gpu", "pallas_gpu"]


def test_unknown_choice() -> None:
    with pytest.raises(InputError, match=r"kernel='cuda', expected one of auto, xla, pallas"):
        resolve_kernel("cuda", "gpu", CUB)
