"""ResNet 18 to 152 up to the last convolutional stage (layer4), as a feature extractor.

Source: He et al., "Deep Residual Learning for Image Recognition", in torchvision's variant "v1.5":
a bottleneck has its stride in the 3 × 3 convolution, not in the first 1 × 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones.layers import Backbone, ConvNorm, Maps
from dedn_jax.model.backbones.naming import TORCH, LayerNames, Naming, conv_norms

_EPSILON = 1e-5


def _ignored(key: str, layers: tuple[str, ...]) -> bool:
    """Counts of batches, and whatever comes after the last convolution: heads of any name."""
    return key.endswith(".num_batches_tracked") or not key.startswith(layers)


_TORCHVISION = Naming(
    origin="the state_dict of a torchvision ResNet",
    arrays=conv_norms(
        {
            "stem": LayerNames("conv1", "bn1"),
            "stages.{}.{}.convs.{}": LayerNames("layer{}.{}.conv{}", "layer{}.{}.bn{}", (1, 0, 1)),
            "stages.{}.{}.shortcut": LayerNames(
                "layer{}.{}.downsample.0", "layer{}.{}.downsample.1", (1, 0)
            ),
        },
        TORCH,
    ),
    ignored=lambda key: _ignored(key, ("conv1.", "bn1.", "layer")),
)
_HUGGING_FACE = Naming(
    origin="a ResNet of transformers",
    arrays=conv_norms(
        {
            ours: LayerNames(f"{theirs}.convolution", f"{theirs}.normalization")
            for ours, theirs in {
                "stem": "embedder.embedder",
                "stages.{}.{}.convs.{}": "encoder.stages.{}.layers.{}.layer.{}",
                "stages.{}.{}.shortcut": "encoder.stages.{}.layers.{}.shortcut",
            }.items()
        },
        TORCH,
    ),
    ignored=lambda key: _ignored(key, ("embedder.", "encoder.")),
    roots=("resnet.", ""),
)


class _Design(NamedTuple):
    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, int, int, int]  # in each of the four stages


RESNETS = {
    "resnet18": _Design("basic", (2, 2, 2, 2)),
    "resnet34": _Design("basic", (3, 4, 6, 3)),
    "resnet50": _Design("bottleneck", (3, 4, 6, 3)),
    "resnet101": _Design("bottleneck", (3, 4, 23, 3)),
    "resnet152": _Design("bottleneck", (3, 8, 36, 3)),
}


class _Conv(NamedTuple):
    size: int
    has_stride: bool
    widening: int  # output channels over the width of the stage


_BLOCKS = {
    "basic": (_Conv(3, True, 1), _Conv(3, False, 1)),
    "bottleneck": (_Conv(1, False, 1), _Conv(3, True, 1), _Conv(1, False, 4)),
}
_STEM_WIDTH = 64
_STAGE_WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nnx.Module):
    """`relu(convs(x) + shortcut(x))`; the shortcut is the identity where shapes match."""

    def __init__(
        self,
        block: str,
        inputs: int,
        width: int,
        stride: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        def conv(size: int, inputs: int, outputs: int, stride: int) -> ConvNorm:
            side = size // 2
            return ConvNorm(
                (size, size, inputs, outputs),
                stride=stride,
                padding=(side, side),
                epsilon=_EPSILON,
                dtype=dtype,
                rngs=rngs,
            )

        convs, reached = [], inputs
        for size, has_stride, widening in _BLOCKS[block]:
            convs.append(conv(size, reached, width * widening, stride if has_stride else 1))
            reached = width * widening
        self.convs = nnx.List(convs)
        same_shape = stride == 1 and inputs == reached
        self.shortcut = nnx.data(None if same_shape else conv(1, inputs, reached, stride))

    def __call__(self, x: Maps) -> Maps:
        y = x
        for conv in self.convs[:-1]:
            y = nnx.relu(conv(y))
        residual = x if self.shortcut is None else self.shortcut(x)
        # Float32 from block to block: rounding to bfloat16 here would make the error of a
        # ResNet-101's feature map 3.5 times as large (1.2e-2 instead of 3.5e-3).
        return nnx.relu(self.convs[-1](y) + residual)


class ResNet(Backbone):
    """Pictures to the feature map of layer4: 512 channels (18, 34) or 2048, stride 32.

    Args:
      name: a key of `RESNETS`.
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.
    """

    mean = (0.485, 0.456, 0.406)  # of ImageNet's training set, as torchvision's weights expect
    std = (0.229, 0.224, 0.225)
    namings = (_TORCHVISION, _HUGGING_FACE)  # timm's names are torchvision's

    def __init__(self, name: str, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        design = RESNETS[name]
        widening = _BLOCKS[design.block][-1].widening
        self.channels = _STAGE_WIDTHS[-1] * widening
        self.stem = ConvNorm(
            (7, 7, 3, _STEM_WIDTH), stride=2, padding=(3, 3), epsilon=_EPSILON, dtype=dtype,
            rngs=rngs,
        )  # fmt: skip
        stages, reached = [], _STEM_WIDTH
        for stage, (width, count) in enumerate(zip(_STAGE_WIDTHS, design.blocks, strict=True)):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    ResidualBlock(design.block, reached, width, stride, dtype=dtype, rngs=rngs)
                )
                reached = width * widening
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        x = nnx.relu(self.stem(images))
        # Nothing is below 0 here, so zeros pad as well as -inf would, and the converter to ONNX
        # leaves out the padding of a pool.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x
