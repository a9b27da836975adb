"""MobileNet-v1 with its real weights on real pictures, against PyTorch and stored feature maps.

The stored maps are float16, of pictures resized to 224 x 224 by Pillow (antialiased bilinear, 8-bit
result, no crop), and the 384 channels, in order, that vary most over all 960 pictures and regions.
The weights' kernels are rounded to float16, the stored maps were made before that: errors of half a
unit in the last place of every kernel move the maps by as much as the two differ (0.6 % RMS).
"""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from flax import nnx
from PIL import Image

from dedn_jax.model.backbones import load_weights, make_backbone

STRIDE_2 = (2, 4, 6, 12)


def load(shared_data, dtype):
    backbone = nnx.eval_shape(lambda: make_backbone("mobilenet_v1", dtype, nnx.Rngs(0)))
    load_weights(backbone, shared_data / "mobilenet_v1.npz")
    return backbone


@nnx.jit
def feature_map(backbone, pictures):
    return backbone(backbone.preprocess(pictures))


@pytest.fixture(scope="module")
def rows():
    """Which of the 960 pictures: every 40th, from all parts of the set."""
    return np.arange(0, 960, 40)


@pytest.fixture(scope="module")
def pictures(shared_data, rows):
    """`[24, 224, 224, 3]` uint8, in the order of the stored maps."""
    root = shared_data / "cub40"
    listed = scipy.io.loadmat(root / "xlsa17/data/CUB/res101.mat")["image_files"]
    loaded = []
    for row in rows:
        name = str(listed[row, 0][0]).split("/images/")[1]
        with Image.open(root / "CUB/CUB_200_2011/images" / name) as picture:
            resized = picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        loaded.append(np.asarray(resized))
    return np.stack(loaded)


@pytest.fixture(scope="module")
def ours(shared_data, pictures):
    return np.asarray(feature_map(load(shared_data, "float32"), pictures))


def torch_port(npz, images):
    """The network in PyTorch, written from its description: `[batch, 1024, height, width]`."""
    import torch
    from torch.nn.functional import batch_norm, conv2d, pad, relu6

    def array(name):
        return torch.from_numpy(npz[name].astype(np.float32))

    def finish(x, name):
        norm = [array(f"{name}_bn/{part}") for part in ("moving_mean", "moving_variance")]
        affine = [array(f"{name}_bn/{part}") for part in ("gamma", "beta")]
        return relu6(batch_norm(x, *norm, *affine, training=False, eps=1e-3))

    x = torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    x = finish(
        conv2d(pad(x, (0, 1, 0, 1)), array("conv1/kernel").permute(3, 2, 0, 1), stride=2), "conv1"
    )
    for i in range(1, 13):
        stride = 2 if i in STRIDE_2 else 1
        x = pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        kernel = array(f"conv_dw_{i}/depthwise_kernel").permute(2, 3, 0, 1)
        x = finish(conv2d(x, kernel, stride=stride, groups=x.shape[1]), f"conv_dw_{i}")
        x = finish(conv2d(x, array(f"conv_pw_{i}/kernel").permute(3, 2, 0, 1)), f"conv_pw_{i}")
    return x


@pytest.mark.parametrize(("height", "width"), [(224, 224), (97, 130)])
@pytest.mark.torch
def test_against_pytorch(shared_data, pictures, height, width):
    import torch

    images = pictures[:4, :height, :width]
    found = np.asarray(feature_map(load(shared_data, "float32"), images))
    with torch.no_grad(), np.load(shared_data / "mobilenet_v1.npz") as npz:
        expected = torch_port(npz, images).flatten(2).numpy()
    assert found.shape == (4, 1024, (height // 32) * (width // 32))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_against_the_stored_feature_maps(shared_data, ours, rows):
    with h5py.File(shared_data / "cub40/feature_map_mobilenet_CUB.hdf5") as file:
        stored = file["feature_map"][rows].astype(np.float32).reshape(len(rows), 384, 49)

    def standardised(maps):
        flat = maps.swapaxes(0, 1).reshape(maps.shape[1], -1)
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)

    correlation = standardised(stored) @ standardised(ours).T
    channels = correlation.argmax(1)
    assert (np.diff(channels) > 0).all()  # each found once, and in the network's order
    assert correlation.max(1).min() > 0.999
    difference = np.abs(ours[:, channels] - stored)
    assert difference.mean() < 0.005  # values reach 6
    assert difference.max() < 0.6


def test_bfloat16_is_near(shared_data, pictures, ours):
    found = np.asarray(feature_map(load(shared_data, "bfloat16"), pictures))
    assert found.dtype == np.float32
    assert np.sqrt(np.mean((found - ours) ** 2) / np.mean(ours**2)) < 0.03


def test_sizes_and_counts():
    backbone = nnx.eval_shape(lambda: make_backbone("mobilenet_v1", "bfloat16", nnx.Rngs(0)))
    assert (backbone.channels, backbone.stride) == (1024, 32)
    # 4,231,976 as published for all of it, less the last pair of layers and the classifier.
    whole, statistics = 4_253_864, 21_888
    after = 9 * 1024 + 1024 * 1024 + 2 * 2 * 1024 + 1025 * 1000
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(backbone, nnx.Param)))
    assert parameters == whole - statistics - after
    out = nnx.eval_shape(feature_map, backbone, np.zeros((2, 224, 448, 3), np.uint8))
    assert (out.shape, out.dtype) == ((2, 1024, 7 * 14), jnp.float32)


def test_preprocess_maps_to_plus_and_minus_one():
    backbone = nnx.eval_shape(lambda: make_backbone("mobilenet_v1", "float32", nnx.Rngs(0)))
    found = backbone.preprocess(np.array([[0, 51, 255]], np.uint8))
    np.testing.assert_allclose(found, [[-1, -0.6, 1]], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_reach_every_parameter(dtype):
    backbone = make_backbone("mobilenet_v1", dtype, nnx.Rngs(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    gradients = nnx.jit(nnx.grad(lambda b: jnp.mean(feature_map(b, images) ** 2)))(backbone)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == 75
    assert all(leaf.dtype == jnp.float32 and float(jnp.abs(leaf).max()) > 0 for leaf in leaves)
