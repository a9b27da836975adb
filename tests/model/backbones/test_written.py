"""Weights that are written are those that are read back, for every kind of backbone."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.layers import Backbone
from dedn_jax.model.backbones.vit import (
    CLIP,
    DINOv2,
    DINOv2Registers,
    DINOv3,
    SigLIP,
    VisionTransformer,
)
from dedn_jax.model.backbones.weights import assign_weights
from dedn_jax.model.backbones.written import stored_arrays
from tests.helpers.backbones import filled
from tests.helpers.tiny_vit import PICTURE, SIZE

CONVOLUTIONS = ("resnet18", "resnet50", "mobilenet_v1", "efficientnet_lite0", "small")
TRANSFORMERS = (VisionTransformer, DINOv2, DINOv2Registers, DINOv3, CLIP, SigLIP)
MAKERS = {
    **{name: functools.partial(make_backbone, name, "float32") for name in CONVOLUTIONS},
    **{
        kind.__name__: functools.partial(
            lambda k, rngs: k(SIZE, PICTURE, dtype="float32", rngs=rngs), kind
        )
        for kind in TRANSFORMERS
    },
}


def leaves(backbone: Backbone) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(backbone))]


def made(name: str) -> Backbone:
    return filled(lambda: MAKERS[name](nnx.Rngs(0)))


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back(name: str) -> None:
    trained, again = made(name), nnx.eval_shape(lambda: MAKERS[name](nnx.Rngs(0)))
    assign_weights(again, stored_arrays(trained))
    for a, b in zip(leaves(trained), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_names_are_those_of_the_file_that_others_read() -> None:
    arrays = stored_arrays(made("resnet18"))
    assert arrays["layer2.0.downsample.1.running_var"].shape == (128,)
    assert arrays["conv1.weight"].shape == (64, 3, 7, 7)


def test_our_names_where_the_others_have_no_place() -> None:
    backbone = MAKERS["DINOv3"](nnx.Rngs(0))
    assert "layer.0.attention.q_proj.bias" in stored_arrays(backbone)
    bias = backbone.blocks[0].query_key_value.bias
    bias.set_value(bias[...] + 1)
    assert "blocks.0.query_key_value.bias" in stored_arrays(backbone)


def test_a_file_of_another_backbone() -> None:
    resnet = stored_arrays(made("resnet18"))
    with pytest.raises(InputError, match=r"lacks color, .*dedn export --format=backbone"):
        assign_weights(made("small"), resnet)
    small = stored_arrays(made("small"))
    with pytest.raises(InputError, match="expected the state_dict of a torchvision ResNet"):
        assign_weights(made("resnet18"), small)
