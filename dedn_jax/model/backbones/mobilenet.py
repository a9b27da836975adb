"""MobileNet-v1, width 1.0, up to `conv_pw_12`, as a feature extractor.

Source: Howard et al., "MobileNets", in Keras's variant: ReLU6, batch-norm epsilon 1e-3, and zero
padding at the bottom and right only where the stride is 2.
"""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones.layers import Backbone, ConvNorm, Maps, Padding
from dedn_jax.model.backbones.naming import KERAS, LayerNames, Naming, conv_norms

MOBILENET = "mobilenet_v1"
_EPSILON = 1e-3
_STEM_WIDTH = 32
_NAMING = Naming(
    origin="MobileNet-v1 under Keras's names",
    arrays=conv_norms(
        {
            "stem": LayerNames("conv1", "conv1_bn"),
            "depthwise.{}": LayerNames("conv_dw_{}", "conv_dw_{}_bn", (1,), depthwise=True),
            "pointwise.{}": LayerNames("conv_pw_{}", "conv_pw_{}_bn", (1,)),
        },
        KERAS,
    ),
    # What comes after conv_pw_12 in the whole network.
    ignored=lambda key: key.startswith(("conv_dw_13", "conv_pw_13", "conv_preds")),
)


class _Pair(NamedTuple):
    stride: int  # of the depthwise layer
    width: int  # output channels of the pointwise layer


_PAIRS = (
    _Pair(1, 64),
    _Pair(2, 128),
    _Pair(1, 128),
    _Pair(2, 256),
    _Pair(1, 256),
    _Pair(2, 512),
    _Pair(1, 512),
    _Pair(1, 512),
    _Pair(1, 512),
    _Pair(1, 512),
    _Pair(1, 512),
    _Pair(2, 1024),
)


class MobileNet(Backbone):
    """Pictures to the feature map of `conv_pw_12`, after ReLU6: 1024 channels, stride 32.

    Args:
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.
    """

    mean = (0.5, 0.5, 0.5)  # to [-1, 1]
    std = (0.5, 0.5, 0.5)
    namings = (_NAMING,)

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def layer(
            kernel_shape: tuple[int, int, int, int], stride: int = 1, depthwise: bool = False
        ) -> ConvNorm:
            return ConvNorm(
                kernel_shape,
                stride=stride,
                padding=_padding(kernel_shape[0], stride),
                epsilon=_EPSILON,
                depthwise=depthwise,
                dtype=dtype,
                rngs=rngs,
            )

        self.channels = _PAIRS[-1].width
        self.stem = layer((3, 3, 3, _STEM_WIDTH), stride=2)
        depthwise, pointwise, reached = [], [], _STEM_WIDTH
        for stride, width in _PAIRS:
            depthwise.append(layer((3, 3, 1, reached), stride, depthwise=True))
            pointwise.append(layer((1, 1, reached, width)))
            reached = width
        self.depthwise = nnx.List(depthwise)
        self.pointwise = nnx.List(pointwise)

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        x = nnx.relu6(self.stem(images))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = nnx.relu6(pointwise(nnx.relu6(depthwise(x))))
        return x


def _padding(size: int, stride: int) -> Padding:
    if size == 1:
        return (0, 0)
    return (1, 1) if stride == 1 else (0, 1)
