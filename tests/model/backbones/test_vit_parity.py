"""Vision transformers against those of `transformers`, with the same random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.model.backbones.transformer import Size
from dedn_jax.model.backbones.vit import (
    CLIP,
    DINOv2,
    DINOv2Registers,
    DINOv3,
    OpenCLIP,
    Picture,
    SigLIP,
    VisionTransformer,
)
from dedn_jax.model.backbones.weights import load_weights

# transformers imports both.
pytestmark = [pytest.mark.transformers, pytest.mark.tokenizers, pytest.mark.torch]
SIZE, PICTURE = Size(48, 3, 4, 96), Picture(8, 40)
COMMON = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "image_size": 40, "patch_size": 8,
}  # fmt: skip
KINDS = {
    "vit": (VisionTransformer, "ViTModel", "ViTConfig", {}),
    "dinov2": (DINOv2, "Dinov2Model", "Dinov2Config", {"mlp_ratio": 2}),
    "dinov2_reg": (
        DINOv2Registers, "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"mlp_ratio": 2},
    ),
    "dinov3": (DINOv3, "DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4}),
    "clip": (CLIP, "CLIPVisionModel", "CLIPVisionConfig", {}),
    "openclip": (OpenCLIP, "CLIPVisionModel", "CLIPVisionConfig", {"hidden_act": "gelu"}),
    "siglip": (SigLIP, "SiglipVisionModel", "SiglipVisionConfig", {}),
}  # fmt: skip


def theirs(kind):
    import torch
    import transformers

    _, model, config, more = KINDS[kind]
    torch.manual_seed(0)
    network = getattr(transformers, model)(getattr(transformers, config)(**COMMON, **more)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def expected(network, images):
    """Tokens after the last norm."""
    import torch

    more = {}
    if type(network).__name__ in ("ViTModel", "CLIPVisionModel", "SiglipVisionModel"):
        more["interpolate_pos_encoding"] = True
    with torch.no_grad():
        out = network(torch.from_numpy(images).permute(0, 3, 1, 2), **more).last_hidden_state
        if type(network).__name__ == "CLIPVisionModel":
            out = network.post_layernorm(out)
    return out.numpy()


@pytest.mark.parametrize("size", [(40, 40), (64, 64), (24, 56)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens(kind, size, tmp_path):
    """At the size of its pictures, at a larger one, and at one that is not square."""
    network, images = theirs(kind), np.random.default_rng(0).normal(size=(2, *size, 3))
    images = images.astype(np.float32)
    network.save_pretrained(tmp_path)
    make = KINDS[kind][0]
    tower = nnx.eval_shape(lambda: make(SIZE, PICTURE, dtype="float32", rngs=nnx.Rngs(0)))
    load_weights(tower, tmp_path / "model.safetensors")
    wanted = expected(network, images)
    before = wanted.shape[1] - size[0] * size[1] // 64
    tower.class_token = tower.has_class_token
    found = np.asarray(nnx.jit(lambda tower, x: tower(x))(tower, jnp.asarray(images)))
    patches = wanted.shape[1] - before
    np.testing.assert_allclose(found[:, :, :patches].swapaxes(1, 2), wanted[:, before:], atol=1e-4)
    if tower.has_class_token:
        np.testing.assert_allclose(found[:, :, patches], wanted[:, 0], atol=1e-4)
    assert found.shape[2] == patches + tower.class_token
