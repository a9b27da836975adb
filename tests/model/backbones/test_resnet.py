"""ResNet against a PyTorch one with the same random weights; sizes and structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.weights import assign_weights, expected_arrays

# From the paper's table and torchvision's published counts, less `fc` (1000 classes).
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
FLOAT32, BFLOAT16 = 1e-4, 2e-2


def relative_difference(ours, theirs):
    """The largest absolute difference over the largest magnitude of the reference."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@functools.cache
def torch_resnet(depth):
    from tests.parity.resnet_port import random_resnet

    return random_resnet(depth, seed=depth)


def feature_maps(depth, height, width, dtype, batch):
    """Of our ResNet and of the PyTorch one, for the same weights and pictures."""
    network = torch_resnet(depth)
    import torch

    images = np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)
    backbone = make_backbone(f"resnet{depth}", dtype, nnx.Rngs(0))
    assign_weights(backbone, {k: v.numpy() for k, v in network.state_dict().items()})
    ours = nnx.jit(lambda backbone, x: backbone(x))(backbone, images)
    assert ours.dtype == jnp.float32
    with torch.no_grad():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).flatten(2).numpy()
    assert theirs.shape == (batch, backbone.channels, (height // 32) * (width // 32))
    return np.asarray(ours), theirs


@pytest.mark.torch
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", FLOAT32), pytest.param("bfloat16", BFLOAT16, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(64, 64, marks=pytest.mark.slow), (96, 64)]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_small_pictures(depth, height, width, dtype, tolerance):
    ours, theirs = feature_maps(depth, height, width, dtype, batch=2)
    assert relative_difference(ours, theirs) < tolerance


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_resnet101_at_224(dtype, tolerance):
    ours, theirs = feature_maps(101, 224, 224, dtype, batch=1)
    assert relative_difference(ours, theirs) < tolerance


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_resnet101_at_448(dtype, tolerance):
    ours, theirs = feature_maps(101, 448, 448, dtype, batch=1)
    assert relative_difference(ours, theirs) < tolerance


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_and_sizes(name):
    backbone = nnx.eval_shape(lambda: make_backbone(name, "float32", nnx.Rngs(0)))
    parameters = jax.tree.leaves(nnx.state(backbone, nnx.Param))
    assert sum(leaf.size for leaf in parameters) == PARAMETERS[name]
    statistics = jax.tree.leaves(nnx.state(backbone, nnx.BatchStat))
    assert len(statistics) * 3 == len(parameters) * 2
    out = nnx.eval_shape(lambda b, x: b(x), backbone, jnp.zeros((2, 448, 224, 3)))
    channels = 512 if name in ("resnet18", "resnet34") else 2048
    assert (backbone.channels, backbone.stride) == (channels, 32)
    assert (out.shape, out.dtype) == ((2, channels, 14 * 7), jnp.float32)


@pytest.mark.torch
def test_every_depth_has_the_names_of_the_pytorch_one():
    import torch

    from tests.parity.resnet_port import ResNetPort

    for name in PARAMETERS:
        with torch.device("meta"):
            state = ResNetPort(int(name.removeprefix("resnet"))).state_dict()
        theirs = {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k}
        backbone = nnx.eval_shape(lambda name=name: make_backbone(name, "float32", nnx.Rngs(0)))
        assert expected_arrays(backbone) == theirs


def test_random_weights_are_he_initialised():
    backbone = make_backbone("resnet18", "float32", nnx.Rngs(3))
    kernel = np.asarray(backbone.stages[3][1].convs[1].kernel[...])
    assert kernel.shape == (3, 3, 512, 512)
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 512)) ** 0.5, rtol=5e-3)
    assert abs(kernel.mean()) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_gradients_reach_every_parameter_in_float32(dtype):
    backbone = make_backbone("resnet18", dtype, nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    gradients = nnx.jit(nnx.grad(lambda b, x: jnp.mean(b(x) ** 2)))(backbone, images)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == 60
    assert all(leaf.dtype == jnp.float32 and float(jnp.abs(leaf).max()) > 0 for leaf in leaves)


def test_preprocess_uses_the_constants_of_imagenet():
    backbone = nnx.eval_shape(lambda: make_backbone("resnet18", "float32", nnx.Rngs(0)))
    images = np.array([[[[0, 128, 255], [255, 0, 64]]]], np.uint8)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = backbone.preprocess(images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(TypeError, match="float32, expected uint8"):
        backbone.preprocess(images.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 3\]"):
        backbone.preprocess(images[..., :2])


def test_unknown_names_are_refused():
    with pytest.raises(
        InputError, match=r"backbone 'resnet100' is no backbone; the nearest: resnet1"
    ):
        make_backbone("resnet100", "float32", nnx.Rngs(0))
    for dtype in ("float16", "int8", "half-ish"):
        with pytest.raises(InputError, match=r"expected one of float32, bfloat16"):
            make_backbone("resnet18", dtype, nnx.Rngs(0))
