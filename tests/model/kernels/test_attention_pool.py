"""Fused attention pooling: kernels against float64.

Nothing here needs an accelerator: kernels of both backends are interpreted on the CPU, lowered for
GPUs, and compiled for TPUs where libtpu is installed.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.model.attention import BranchRows, attention_pool, dual_attention
from dedn_jax.model.kernels import KERNELS, gpu, resolve_kernel, tpu
from dedn_jax.model.kernels import attention_pool as module

BACKENDS = pytest.mark.parametrize("backend", ["gpu", "tpu"])
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
# batch, attributes, dim, positions: one of each alone, and none a multiple of a block.
SIZES = [(1, 1, 1, 1), (2, 5, 4, 6), (2, 85, 40, 49), (1, 70, 33, 1)]
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def problem(
    size: tuple[int, int, int, int], seed: int = 0, dtype: str = "float32", scale: float = 1.0
) -> Arrays:
    """Score rows, attention rows, features and a cotangent, rounded to `dtype`, as float64."""
    batch, attributes, dim, positions = size
    rng = np.random.default_rng(seed)

    def rounded(*shape: int, scale: float = 1.0) -> np.ndarray:
        values = jnp.asarray(scale * rng.standard_normal(shape), dtype)
        return np.asarray(values, np.float64)

    return (
        rounded(attributes, dim, scale=dim**-0.5),
        rounded(attributes, dim, scale=scale * dim**-0.5),
        rounded(batch, dim, positions),
        rounded(batch, attributes),
    )


def reference(score: np.ndarray, attend: np.ndarray, f: np.ndarray, c: np.ndarray) -> list[Any]:
    """Value and gradients in float64: `p`, by score rows, by attention rows, by features."""
    s, logits = np.einsum("ad,bdp->bap", score, f), np.einsum("ad,bdp->bap", attend, f)
    beta = np.exp(logits - logits.max(-1, keepdims=True))
    beta /= beta.sum(-1, keepdims=True)
    p = (beta * s).sum(-1)
    by_s = c[..., None] * beta
    by_logit = by_s * (s - p[..., None])
    return [
        p,
        np.einsum("bap,bdp->ad", by_s, f),
        np.einsum("bap,bdp->ad", by_logit, f),
        np.einsum("bap,ad->bdp", by_s, score) + np.einsum("bap,ad->bdp", by_logit, attend),
    ]


def pool_of(backend: str, *, transposed: bool = False) -> Callable[..., jax.Array]:
    """The kernel as a function of features `[batch, dim, positions]`, whatever it is given."""

    def pool(score: jax.Array, attend: jax.Array, features: jax.Array) -> jax.Array:
        stored = jnp.swapaxes(features, -1, -2) if transposed else features
        return module.attention_pool(
            score, attend, stored, transposed=transposed, interpret=backend
        )

    return pool


@functools.partial(jax.jit, static_argnums=0)
def everything(pool: Callable[..., jax.Array], *arrays: jax.Array) -> list[jax.Array]:
    *inputs, cotangent = arrays
    value, vjp = jax.vjp(pool, *inputs)
    return [value, *vjp(cotangent)]


def assert_close(found: Any, expected: Any, dtype: str = "float32") -> None:
    """Largest difference, relative to the largest number."""
    names = ("p", "score", "attention", "features")
    for name, x, y in zip(names[: len(found)], found, expected, strict=True):
        assert x.shape == y.shape, name
        x = np.asarray(x, np.float64)
        assert np.isfinite(x).all(), name
        # One position has no gradient in the logits: what is left is rounding.
        scale = max(np.abs(y).max(), 0.1)
        assert np.abs(x - y).max() <= TOLERANCE[dtype] * scale, name


@BACKENDS
@pytest.mark.parametrize(
    ("size", "transposed"), [*((size, False) for size in SIZES), (SIZES[2], True)]
)
def test_value_and_gradients(backend: str, transposed: bool, size: Any) -> None:
    arrays = problem(size)
    single = [jnp.asarray(x, jnp.float32) for x in arrays]
    found = everything(pool_of(backend, transposed=transposed), *single)
    assert all(x.dtype == jnp.float32 for x in found)
    assert_close(found, reference(*arrays))


@pytest.mark.parametrize(("backend", "transposed"), [("gpu", False), ("tpu", True)])
def test_bfloat16_features(backend: str, transposed: bool) -> None:
    score, attend, features, cotangent = arrays = problem((3, 20, 40, 49), dtype="bfloat16")
    found = everything(
        pool_of(backend, transposed=transposed),
        *(jnp.asarray(x, jnp.float32) for x in (score, attend)),
        jnp.asarray(features, jnp.bfloat16),
        jnp.asarray(cotangent, jnp.float32),
    )
    # Rows and their gradients stay float32: only products are of bfloat16.
    assert [x.dtype for x in found] == [jnp.float32] * 3 + [jnp.bfloat16]
    assert_close(found, reference(*arrays), "bfloat16")


def test_float16_features_are_computed_in_float32() -> None:
    arrays = problem((2, 5, 4, 6), dtype="float16")
    single = [jnp.asarray(x, jnp.float32) for x in arrays]
    single[2] = jnp.asarray(arrays[2], jnp.float16)
    found = everything(pool_of("tpu"), *single)
    assert found[3].dtype == jnp.float16
    assert_close(found[:3] + [found[3].astype(jnp.float32)], reference(*arrays), "bfloat16")


@BACKENDS
@pytest.mark.parametrize("transposed", [False, True])
def test_several_blocks(backend: str, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows, dim, positions and images, each with a rest; maxima in any block."""
    monkeypatch.setattr(gpu, "_ROWS", 16)
    monkeypatch.setattr(gpu, "_POSITIONS", 16)
    monkeypatch.setattr(gpu, "_DIM_BYTES", 128)
    monkeypatch.setattr(gpu, "_WEIGHT_BYTES", 2 * 2 * 39 * 150 * 4)
    monkeypatch.setattr(tpu, "blocks", lambda *_, transposed, **__: (16, 48 if transposed else 128))
    # Each backend goes through both layouts as it is told here.
    monkeypatch.setattr(tpu, "_compact", lambda features, transposed: (features, transposed))
    arrays = problem((5, 39, 37, 150), scale=4.0)
    single = [jnp.asarray(x, jnp.float32) for x in arrays]
    assert_close(everything(pool_of(backend, transposed=transposed), *single), reference(*arrays))


@BACKENDS
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits(backend: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits to ±1e4, all of one sign, in several blocks: a zero from padding would win or blow."""
    monkeypatch.setattr(gpu, "_POSITIONS", 16)
    monkeypatch.setattr(tpu, "blocks", lambda *_, transposed, **__: (16, 16 if transposed else 128))
    score, attend, features, cotangent = problem((2, 5, 4, 134))
    # Powers of two: logits are exact, so that the winner is the same in float64.
    attend = np.zeros_like(attend)
    attend[:, 0] = sign * 8192.0
    features[:, 0] = np.random.default_rng(1).choice([0.5, 1.0, 1.25], features[:, 0].shape)
    arrays = (score, attend, features, cotangent)
    found = everything(pool_of(backend), *(jnp.asarray(x, jnp.float32) for x in arrays))
    assert_close(found[:3], reference(*arrays)[:3])
    assert np.isfinite(np.asarray(found[3])).all()


@BACKENDS
def test_zero_features_and_empty_sizes(backend: str) -> None:
    score, attend, features, cotangent = problem((2, 5, 4, 6))
    arrays = (score, attend, 0 * features, cotangent)
    found = everything(pool_of(backend), *(jnp.asarray(x, jnp.float32) for x in arrays))
    assert_close(found, reference(*arrays))
    nothing = pool_of(backend)(jnp.ones((3, 4)), jnp.ones((3, 4)), jnp.ones((0, 4, 6)))
    assert nothing.shape == (0, 3)


@BACKENDS
def test_vmap_of_rows_over_shared_features(backend: str) -> None:
    """Several seeds train on one batch."""
    arrays = [problem((2, 5, 4, 6), seed) for seed in range(3)]
    features = arrays[0][2]
    score, attend, cotangent = (jnp.asarray([a[i] for a in arrays], jnp.float32) for i in (0, 1, 3))
    call = jax.jit(jax.vmap(functools.partial(everything, pool_of(backend)), (0, 0, None, 0)))
    found = call(score, attend, jnp.asarray(features, jnp.float32), cotangent)
    for seed, (s, t, _, c) in enumerate(arrays):
        assert_close([x[seed] for x in found], reference(s, t, features, c))


@BACKENDS
def test_scan(backend: str) -> None:
    """A step of gradient descent per batch, as training does several steps in one program."""
    batches = [problem((2, 5, 4, 6), seed) for seed in range(3)]
    rows = tuple(jnp.asarray(x, jnp.float32) for x in batches[0][:2])
    features, cotangents = (jnp.asarray([b[i] for b in batches], jnp.float32) for i in (2, 3))

    def step(rows: Any, batch: Any) -> tuple[Any, jax.Array]:
        f, c = batch
        loss, gradient = jax.value_and_grad(lambda r: (c * pool_of(backend)(*r, f)).sum())(rows)
        return jax.tree.map(lambda r, g: r - 0.1 * g, rows, gradient), loss

    found, _ = jax.jit(lambda rows: jax.lax.scan(step, rows, (features, cotangents)))(rows)
    s, t = batches[0][:2]
    for _, _, f, c in batches:
        _, by_s, by_t, _ = reference(s, t, f, c)
        s, t = s - 0.1 * by_s, t - 0.1 * by_t
    np.testing.assert_allclose(found[0], s, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], t, rtol=1e-5, atol=1e-5)


def test_the_model_calls_it_for_both_branches() -> None:
    """On this platform, without being told a backend."""
    region, attend, features, _ = (jnp.asarray(x, jnp.float32) for x in problem((2, 5, 4, 6)))
    channel, attend_channel, _, _ = (
        jnp.asarray(x, jnp.float32) for x in problem((2, 7, 6, 4), seed=1)
    )
    rows = BranchRows(region, attend), BranchRows(channel, attend_channel)
    expected = dual_attention(*rows, features)
    found = jax.jit(functools.partial(dual_attention, kernel="pallas"))(*rows, features)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    x = attention_pool(rows[0], features, kernel="pallas")
    np.testing.assert_allclose(x, expected[0], rtol=1e-5, atol=1e-6)


def test_resolve_kernel() -> None:
    # Nothing has been measured on an accelerator yet.
    for platform in ("cpu", "gpu", "tpu", "other"):
        xla = platform if platform in ("gpu", "tpu") else "cpu"
        assert [resolve_kernel(c, platform) for c in KERNELS] == [xla, xla, "pallas"]
    with pytest.raises(InputError, match=r"kernel='cuda', expected one of auto, xla, pallas"):
        resolve_kernel("cuda", "gpu")


@pytest.mark.parametrize("attributes", [1, 85, 624, 6000])
@pytest.mark.parametrize("shape", [(2048, 196), (196, 2048), (384, 49), (49, 1024), (1, 1)])
def test_tpu_blocks(attributes: int, shape: tuple[int, int]) -> None:
    for itemsize, *flags in itertools.product((2, 4), *3 * [(False, True)]):
        options = dict(zip(("transposed", "backward", "exact"), flags, strict=True))
        rows, positions = tpu.blocks(attributes, *shape, itemsize, **options)
        assert rows % 16 == 0
        assert positions == shape[1] or positions % (16 if options["transposed"] else 128) == 0
        # The last block is never empty, and little is added.
        count = -(-attributes // rows)
        assert 0 <= count * rows - attributes < 16 * count
        assert min(rows, attributes) >= min(attributes, 48)


CUB = (50, 624, 2048, 196)


def loss(transposed: bool, score: Any, attend: Any, features: Any, cotangent: Any) -> jax.Array:
    return (cotangent * module.attention_pool(score, attend, features, transposed=transposed)).sum()


def arguments(dtype: str, transposed: bool, sharding: Any = None) -> list[jax.ShapeDtypeStruct]:
    """Of `loss`, at CUB's size: the feature map is stored once, for both branches."""
    batch, attributes, channels, regions = CUB
    dim = regions if transposed else channels
    shapes = [(attributes, dim)] * 2 + [(batch, channels, regions), (batch, attributes)]
    dtypes = ["float32", "float32", dtype, "float32"]
    return [
        jax.ShapeDtypeStruct(s, d, sharding=sharding) for s, d in zip(shapes, dtypes, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:.*Triton backend is deprecated")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_gpus(dtype: str, transposed: bool) -> None:
    """To Triton's own code; what follows needs the CUDA compiler."""
    gradient = jax.jit(jax.value_and_grad(functools.partial(loss, transposed), (0, 1)))
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = gradient.trace(*arguments(dtype, transposed)).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("__gpu$xla.gpu.triton") >= 2
    # No scores of all images.
    batch, attributes, channels, regions = CUB
    positions = channels if transposed else regions
    assert f"tensor<{batch}x{attributes}x{positions}x" not in text or not transposed


@pytest.fixture(scope="module")
def tpu_device() -> Any:
    """A TPU v5e to compile for, without having one."""
    from jax.experimental import topologies

    # On a TPU machine these are found out; elsewhere asking takes minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    description = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return jax.sharding.SingleDeviceSharding(description.devices[0])


@pytest.mark.libtpu
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "precision"), [("bfloat16", None), ("float32", None), ("float32", "float32")]
)
def test_compiles_for_tpus(
    tpu_device: Any, dtype: str, precision: str | None, transposed: bool
) -> None:
    """Value and row gradients at CUB's size fit a TPU v5e, and keep less than the features take."""
    gradient = jax.jit(jax.value_and_grad(functools.partial(loss, transposed), (0, 1)))
    shapes = arguments(dtype, transposed, tpu_device)
    with jax.default_matmul_precision(precision):
        compiled = gradient.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
    batch, attributes, channels, regions = CUB
    scores = 4 * batch * attributes * (channels if transposed else regions)
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 8
    # Two kernels: the gradient in the features is dropped, as nothing asks for it.
    text = compiled.as_text()
    assert text.count("tpu_custom_call") == 2
    assert " while(" not in text
