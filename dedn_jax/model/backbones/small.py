"""A small backbone for small pictures, trained from scratch together with the experts.

In place of pretrained weights its parameters start as classic hand-designed filters, so that a few
hundred pictures are enough for training:

- colours: a convolution with a softmax over twelve colour names. A softmax over negative squared
  distances to prototypes is linear in the picture, as |x|^2 cancels (the idea of van de Weijer et
  al., "Learning Color Names for Real-World Applications", 2009);
- texture: oriented energy of quadrature Gabor pairs on three octaves of brightness (Daugman 1985;
  Adelson and Bergen 1985);
- gates: each colour where brightness is flat, and where it is busy on each octave.

The maps are pooled to regions, and each channel's mean over the picture is subtracted, since what
is everywhere in a picture does not distinguish its parts (surround suppression, Heeger 1992). A
pointwise layer, initialised near the identity, then mixes the channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones.layers import Backbone, Maps

SMALL = "small"
_GRID = 4  # pixels between neighbours of every map before pooling
_ORIENTATIONS = 6
_OCTAVES = 3
_COLORS = (  # red, orange, yellow, green, teal, blue, purple, pink, brown, black, gray, white
    *((205, 58, 50), (236, 136, 46), (240, 202, 70), (84, 160, 76), (70, 180, 172), (52, 116, 202)),
    *((138, 80, 178), (236, 138, 174), (190, 150, 108), (48, 46, 54), (140, 138, 140)),
    (238, 236, 232),
)
# Linear approximation of CIELAB for sRGB in [0, 1]; residuals of 2 units on the drawn pictures.
_OPPONENTS = np.array([[22.5, 67.0, 6.8], [89.5, -141.9, 48.6], [36.2, 91.4, -130.1]])
_BRIGHTNESS_WEIGHT = 0.5  # of differences: shade changes brightness, not colour
_COLOR_WIDTH = 9.0  # CIELAB units
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class SmallNet(Backbone):
    """Pictures to 96 channels, stride 12: 96 x 96 pixels are 64 regions.

    Sides are multiples of 4 pixels, 24 or more.

    Args:
      dtype: the compute type of the convolutions, float32 or bfloat16.
      rngs: the stream `params` is used.
    """

    stride = 12
    mean = (0.5, 0.5, 0.5)  # to [-1, 1]
    std = (0.5, 0.5, 0.5)

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.dtype = jnp.dtype(dtype)
        kernel, bias = _color_filters()
        self.color = nnx.Param(jnp.asarray(kernel))
        self.color_bias = nnx.Param(jnp.asarray(bias))
        # One parameter per octave: they start equal and are trained apart.
        self.gabor = nnx.List(nnx.Param(jnp.asarray(_gabor_filters())) for _ in range(_OCTAVES))
        self.sensitivity = nnx.Param(jnp.ones(_OCTAVES, jnp.float32))
        self.channels = len(_COLORS) * (2 + _OCTAVES) + 2 * _OCTAVES * _ORIENTATIONS
        noise = jax.random.normal(rngs.params(), (self.channels, self.channels))
        self.mix = nnx.Param(jnp.eye(self.channels) + 0.01 * noise)
        self.mix_bias = nnx.Param(jnp.zeros(self.channels, jnp.float32))

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        height, width = images.shape[1:3]
        if height % _GRID or width % _GRID or min(height, width) < 2 * self.stride:
            raise ValueError(
                f"pictures of {height} x {width} pixels: expected multiples of {_GRID}, "
                f"{2 * self.stride} or more"
            )
        cells = self._cells(images, (height // self.stride, width // self.stride))
        cells = cells - cells.mean(axis=(1, 2), keepdims=True)
        mixed = jnp.matmul(cells, self.mix[...], precision=lax.Precision.HIGHEST)
        return jax.nn.relu(mixed + self.mix_bias[...])

    def _cells(
        self, images: Float[Array, "batch height width 3"], sides: tuple[int, int]
    ) -> Float[Array, "batch rows columns channels"]:
        """Non-negative maps of `sides` regions."""
        logits = self._convolve(images, self.color[...], _GRID) + self.color_bias[...]
        colors = jax.nn.softmax(logits)

        level = (images @ (_LUMA / 2))[..., None]
        energies = []
        for octave, kernel in enumerate(self.gabor):
            if octave:
                level = _halved(level)
            pairs = self._convolve(level, kernel[...], _GRID >> octave)
            even, odd = jnp.split(pairs, 2, axis=-1)
            energies.append(jnp.sqrt(even**2 + odd**2 + 1e-6))

        busy = jnp.stack([energy.sum(-1) for energy in energies], axis=-1)
        busy = 1 - jnp.exp(-jax.nn.relu(self.sensitivity[...]) * busy)
        flat = jnp.prod(1 - busy, axis=-1, keepdims=True)
        gates = jnp.concatenate([flat, busy], axis=-1)
        gated = jnp.concatenate([colors * gates[..., i : i + 1] for i in range(1 + _OCTAVES)], -1)

        energy = jnp.concatenate(energies, axis=-1)
        groups = [
            jnp.sqrt(_peak(colors, sides)),
            jnp.sqrt(_pooled(gated, sides) + 1e-6),
            _pooled(energy, sides) / 2,
            _peak(energy, sides) / 4,
        ]
        return jnp.concatenate(groups, axis=-1)

    def _convolve(self, x: Maps, kernel: Float[Array, "height width in out"], stride: int) -> Maps:
        """Every `stride` pixels; padded by repeating the border, which adds no edge."""
        margin = kernel.shape[0] // 2
        x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        ).astype(jnp.float32)


def _color_filters() -> tuple[Float[np.ndarray, "5 5 3 colors"], Float[np.ndarray, " colors"]]:
    """Kernel and bias: blur, then `-distance² / (2 width²)` without the term |x|²."""
    # Standardised pictures are in [-1, 1]; the offset between them and [0, 1] cancels as well.
    to_opponents = _OPPONENTS / 2 * np.array([[_BRIGHTNESS_WEIGHT], [1.0], [1.0]])
    prototypes = (np.array(_COLORS) / 127.5 - 1) @ to_opponents.T
    weights = to_opponents.T @ prototypes.T / _COLOR_WIDTH**2
    bias = -(prototypes**2).sum(1) / (2 * _COLOR_WIDTH**2)
    blur = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(blur, blur)[:, :, None, None] * weights
    return kernel.astype(np.float32), bias.astype(np.float32)


def _gabor_filters() -> Float[np.ndarray, "9 9 1 filters"]:
    """Even filters of each orientation, then odd ones: wavelength five pixels, zero mean."""
    x, y = np.meshgrid(np.arange(-4, 5), np.arange(-4, 5))
    envelope = np.exp(-(x**2 + y**2) / (2 * 1.9**2))
    filters = []
    for phase in (np.cos, np.sin):
        for k in range(_ORIENTATIONS):
            angle = np.pi * k / _ORIENTATIONS
            wave = phase(2 * np.pi / 5 * (x * np.cos(angle) + y * np.sin(angle)))
            wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())
            filters.append(8 * wave / np.abs(wave).sum())
    return np.stack(filters, -1)[:, :, None].astype(np.float32)


def _halved(x: Maps) -> Maps:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _windows(positions: int, side: int) -> Float[np.ndarray, "side positions"]:
    """Weights of each region: a Gaussian that extends into neighbouring regions."""
    distance = (np.arange(positions) + 0.5) * side / positions - (np.arange(side)[:, None] + 0.5)
    weights = np.exp(-2 * distance**2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _pooled(x: Maps, sides: tuple[int, int]) -> Float[Array, "batch rows columns channels"]:
    """Weighted mean over each region."""
    rows, columns = (_windows(n, side) for n, side in zip(x.shape[1:3], sides, strict=True))
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x, precision=lax.Precision.HIGHEST)


def _peak(x: Maps, sides: tuple[int, int]) -> Float[Array, "batch rows columns channels"]:
    """Mean of fourth powers, fourth root: close to the maximum where one response dominates."""
    return jnp.sqrt(jnp.sqrt(_pooled(jnp.square(jnp.square(x)), sides) + 1e-12))
