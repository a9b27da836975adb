"""Backbones: from pictures to feature maps `[batch, channels, regions]`."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dedn_jax.errors import InputError
from dedn_jax.model.backbones.layers import Backbone
from dedn_jax.model.backbones.mobilenet import MOBILENET, MobileNet
from dedn_jax.model.backbones.resnet import RESNETS, ResNet
from dedn_jax.model.backbones.small import SMALL, SmallNet
from dedn_jax.model.backbones.weights import WeightsFile, load_weights, weights_sha256

__all__ = [
    "BACKBONES",
    "Backbone",
    "MobileNet",
    "ResNet",
    "SmallNet",
    "WeightsFile",
    "load_weights",
    "make_backbone",
    "weights_sha256",
]

BACKBONES = (*RESNETS, MOBILENET, SMALL)
_DTYPES = ("float32", "bfloat16")


def make_backbone(name: str, dtype: DTypeLike, rngs: nnx.Rngs) -> Backbone:
    """A backbone with random weights; `load_weights` gives it trained ones.

    Parameters are `nnx.Param`, running statistics `nnx.BatchStat`, both float32; whether they are
    trained is the caller's choice, batch norm is in inference mode either way.

    Args:
      name: one of `BACKBONES`.
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.

    Raises:
      InputError: no such backbone or compute type.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    try:
        known = jnp.dtype(dtype).name in _DTYPES
    except TypeError:
        known = False
    if not known:
        raise InputError(f"backbone dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
    if name == MOBILENET:
        return MobileNet(dtype=dtype, rngs=rngs)
    if name == SMALL:
        return SmallNet(dtype=dtype, rngs=rngs)
    return ResNet(name, dtype=dtype, rngs=rngs)
