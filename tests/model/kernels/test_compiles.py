"""Fused attention pooling at CUB's size: lowered for GPUs, compiled for a TPU that is not there."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from dedn_jax.errors import InputError
from dedn_jax.model.attention import BranchRows, fused
from dedn_jax.model.kernels import tpu_blocks
from tests.model.kernels.problems import Problem

BATCH, ATTRIBUTES, CHANNELS, REGIONS = 50, 624, 2048, 196


def loss(region: BranchRows, channel: BranchRows, of: Problem) -> jax.Array:
    p, q = fused.dual_attention(region, channel, of.features)
    return (p * of.by_region).sum() + (q * of.by_channel).sum()


def arguments(dtype: str, sharding: Any = None) -> tuple[Any, ...]:
    """Of `loss`; the gradient is that of the rows."""

    def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)

    region, channel = (BranchRows(*2 * [array(ATTRIBUTES, dim)]) for dim in (CHANNELS, REGIONS))
    features = array(BATCH, CHANNELS, REGIONS, dtype=dtype)
    cotangent = array(BATCH, ATTRIBUTES)
    return region, channel, Problem(region, channel, features, cotangent, cotangent)


def lowered(platform: str, device: AbstractDevice, *arguments: Any) -> Any:
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return gradient.trace(*arguments).lower(lowering_platforms=(platform,))


@pytest.mark.filterwarnings("ignore:.*Triton backend is deprecated")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_gpus(dtype: str) -> None:
    """To Triton's own code; what follows needs the CUDA compiler."""
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    text = lowered("cuda", device, *arguments(dtype)).as_text()
    # A kernel for regions, two for channels, and no scores of all images.
    assert text.count("__gpu$xla.gpu.triton") == 3
    assert f"tensor<{BATCH}x{ATTRIBUTES}x{CHANNELS}x" not in text
    assert f"tensor<{BATCH}x{CHANNELS}x{ATTRIBUTES}x" not in text


@functools.cache
def absent(topology: str) -> Any:
    """A TPU to compile for, without having one."""
    from jax.experimental import topologies

    # On a TPU machine these are found out; elsewhere asking takes minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]


@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("topology", "dtype", "precision"),
    [
        ("v5e:2x2", "bfloat16", None),
        # The least vector memory, and most wanted of it.
        ("v5p:2x2x1", "float32", "float32"),
    ],
)
def test_compiles_for_tpus(topology: str, dtype: str, precision: str | None) -> None:
    """Value and row gradients, whose scores stay on the chip."""
    chip = absent(topology)
    device = AbstractDevice(chip.device_kind, chip.num_cores, "tpu")
    shapes = arguments(dtype, jax.sharding.SingleDeviceSharding(chip))
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
        compiled = lowered("tpu", device, *shapes).compile()
    # A kernel a branch, and one for the channel rows' gradient; that in the features is dropped,
    # as nothing asks for it.
    text = compiled.as_text()
    assert text.count("tpu_custom_call") == 3
    assert " while(" not in text
    kept = 4 * BATCH * REGIONS * ATTRIBUTES * jnp.dtype(dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < 1.3 * kept


CHIPS = {"v4": tpu_blocks.Chip(16 * 2**20, 137e12), "v5p": tpu_blocks.Chip(64 * 2**20, 229e12)}
CHIPS["v6e"] = tpu_blocks.Chip(128 * 2**20, 918e12)


def blocks(
    chip: str, size: tuple[int, int, int, int], dtype: str, along_q: bool
) -> tpu_blocks.Blocks:
    batch, attributes, p, q = size
    maps = jax.ShapeDtypeStruct((batch, p, q), jnp.dtype(dtype))
    return tpu_blocks.blocks(attributes, maps, CHIPS[chip], along_q=along_q)


@pytest.mark.parametrize("along_q", [False, True])
@pytest.mark.parametrize("attributes", [1, 102, 624, 6000])
def test_tpu_blocks(attributes: int, along_q: bool) -> None:
    for size in ((50, attributes, 196, 2048), (7, attributes, 49, 384), (1, attributes, 1, 1)):
        for dtype in ("bfloat16", "float32"):
            images, block, vmem = blocks("v5p", size, dtype, along_q)
            assert 1 <= images <= size[0]
            assert 2**24 <= vmem < CHIPS["v5p"].vmem
            # All of them, or whole lanes; the last block is never empty.
            count = -(-attributes // block)
            assert block == attributes or block % 128 == 0
            assert count * block - attributes < 128 * count


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("attributes", [1, 102, 624, 6000])
def test_blocks_of_the_channel_rows_gradient(attributes: int, chip: str) -> None:
    for batch, p in ((50, 196), (7, 1000), (1, 1)):
        kept = jax.ShapeDtypeStruct((batch, p, attributes), jnp.float32)
        images, block, vmem = tpu_blocks.contract_blocks(kept, 2, CHIPS[chip].vmem)
        # Whole images, and all attributes or whole lanes of them.
        assert batch % images == 0
        assert block == attributes or block % 128 == 0
        # Two buffers of both, and of their sums.
        assert 2 * 2 * p * block * 4 * (images + 1) < vmem < CHIPS[chip].vmem


def test_cub_s_channel_rows_in_one_block() -> None:
    """Of 624 attributes two blocks would be of different sizes, which are copied by loops."""
    kept = jax.ShapeDtypeStruct((50, 196, 624), jnp.bfloat16)
    assert tpu_blocks.contract_blocks(kept, 2, CHIPS["v6e"].vmem)[:2] == (10, 624)


def test_tpu_blocks_by_chip() -> None:
    cub = (50, 624, 196, 2048)
    assert blocks("v5p", cub, "bfloat16", False)[:2] == (1, 624)
    # A step of the fastest chip would be too short for one image.
    assert blocks("v6e", cub, "bfloat16", False)[:2] == (2, 624)
    assert blocks("v4", cub, "bfloat16", True).attributes < 624
    with pytest.raises(InputError, match=r"196 x 8192 numbers in float32 .* 16 MiB .*kernel=xla"):
        blocks("v4", (50, 624, 196, 8192), "float32", True)
