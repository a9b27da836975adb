"""What the backbones are made of: convolution followed by batch norm in inference mode.

Activations are `[batch, height, width, channels]`. Products are formed in the compute type (float32
or bfloat16) and accumulated in float32; batch norm is float32 arithmetic on the accumulated sum.
Depthwise convolutions are float32 throughout: they are a few per cent of the arithmetic, and in
bfloat16 they alone quadruple the error of MobileNet-v1's feature map.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# In float32, TPUs and recent GPUs would otherwise round products to bfloat16 or TF32 in silence.
_PRECISION = lax.Precision.HIGHEST

Padding = tuple[int, int]  # pixels before and after, the same along height and width


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch norm with running statistics; no activation.

    Args:
      kernel_shape: `[height, width, in, out]`; for a depthwise one `[height, width, 1, channels]`.
      stride: along height and width.
      padding: zeros before and after.
      epsilon: added to the running variance.
      depthwise: one filter per channel.
      dtype: the compute type, of no effect on a depthwise one; parameters are always float32.
      rngs: the stream `params` is used: He initialisation over the fan-in; the norm starts as the
        identity.
    """

    def __init__(
        self,
        kernel_shape: tuple[int, int, int, int],
        *,
        stride: int,
        padding: Padding,
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, in]` of any float type to `[..., out]` float32."""
        dtype = jnp.dtype(jnp.float32) if self.depthwise else self.dtype
        convolve = _depthwise if self.depthwise else _convolve
        y = convolve(x.astype(dtype), self.kernel[...].astype(dtype), self.stride, self.padding)
        scale = self.scale[...] * lax.rsqrt(self.variance[...] + self.epsilon)
        return y * scale + (self.bias[...] - self.mean[...] * scale)


class Backbone(nnx.Module):
    """What every backbone has.

    Attributes:
      channels: C of the feature map.
      stride: input pixels per region along one side.
      mean, std: by which pictures in [0, 1] are standardised, red, green, blue.
    """

    channels: int
    stride: ClassVar[int] = 32
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]

    @classmethod
    def preprocess(cls, images: ArrayLike) -> jax.Array:
        """`(images / 255 - mean) / std`, `[..., 3]` uint8 to float32; pure, for use on the device.

        Raises:
          TypeError: not uint8: whether such numbers run to 1 or to 255 cannot be told.
          ValueError: the last axis is not red, green, blue.
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8:
            raise TypeError(f"pictures are {images.dtype}, expected uint8")
        if images.ndim == 0 or images.shape[-1] != 3:
            raise ValueError(f"pictures have shape {images.shape}, expected [..., 3]")
        unit = images.astype(jnp.float32) / 255.0
        return (unit - jnp.asarray(cls.mean)) / jnp.asarray(cls.std)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The feature map.

        Args:
          images: `[batch, height, width, 3]` float32 from `preprocess`.

        Returns:
          `[batch, channels, regions]` float32, regions row by row from the top left.
        """
        raise NotImplementedError


def to_regions(x: jax.Array) -> jax.Array:
    """`[batch, height, width, channels]` to `[batch, channels, height * width]`."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height * width, channels).swapaxes(1, 2)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=_LAYOUT,
        precision=_PRECISION,
        preferred_element_type=jnp.float32,
    )


def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """One filter per channel as shifted multiply-adds, which fuse into one pass over `x`.

    XLA's grouped convolution takes 5 to 30 times as long on a CPU, and there is no matrix product
    here for an accelerator to gain from.
    """
    height, width, _, channels = kernel.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    taps = kernel[:, :, 0]
    down = (x.shape[1] - height) // stride * stride + 1
    right = (x.shape[2] - width) // stride * stride + 1
    total = jnp.zeros((), jnp.float32)
    for i in range(height):
        for j in range(width):
            end = (x.shape[0], i + down, j + right, channels)
            total += lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1)) * taps[i, j]
    return total
