"""A fixed filter bank that turns small pictures into feature maps, in place of a trained network.

Nothing here is learned, so a demo needs no download and no weights. The channels are the classic
hand-designed ones, each a map over the picture that is then pooled to side x side cells:

- colour names: soft membership in twelve colours by distance in CIELAB (the idea of van de Weijer
  et al., "Learning Color Names for Real-World Applications", 2009, with fixed prototypes);
- oriented energy of quadrature Gabor pairs on three octaves of brightness (Daugman 1985; Adelson
  and Bergen 1985), and on two colour-opponent axes;
- centre-surround blobs, bright and dark, on three octaves (Lindeberg 1998);
- colour x texture: how much of a colour lies where brightness is flat, or busy on each octave;
- a second layer of oriented energy on top of the first, as in scattering networks (Bruna and
  Mallat 2013), which tells stripes, spots and scales apart.

Last, each channel's mean over the picture is taken off and only what exceeds it is kept, a plain
form of surround suppression (Heeger 1992), which makes the maps sparse: a picture that is the same
everywhere has a feature map of zeros.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

_BATCH = 40  # pictures at a time; bounds memory at about 300 MB for pictures of 96 x 96
_ORIENTATIONS = 6
_OCTAVES = 3

# sRGB prototypes of the colour names, in the order of the colour channels.
COLOR_NAMES: dict[str, tuple[int, int, int]] = {
    "red": (205, 58, 50),
    "orange": (236, 136, 46),
    "yellow": (240, 202, 70),
    "green": (84, 160, 76),
    "teal": (70, 180, 172),
    "blue": (52, 116, 202),
    "purple": (138, 80, 178),
    "pink": (236, 138, 174),
    "brown": (190, 150, 108),
    "black": (48, 46, 54),
    "gray": (140, 138, 140),
    "white": (238, 236, 232),
}
_COLOR_WIDTH = 18.0  # CIELAB units: half way between neighbouring prototypes, roughly


def filter_bank(images: np.ndarray, *, side: int = 7) -> np.ndarray:
    """Feature maps ``[n, channels, side, side]`` float32 of ``[n, height, width, 3]`` uint8.

    Values are non-negative and not normalised. Raises ValueError for another shape or type, or for
    pictures smaller than four pixels a cell.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"filter_bank: images are {images.dtype}{list(images.shape)}; "
            "expected uint8 [n, height, width, 3]"
        )
    if side < 1 or min(images.shape[1:3]) < max(32, 4 * side):
        raise ValueError(
            f"filter_bank: images of {images.shape[1]} x {images.shape[2]} are too small for "
            f"{side} x {side} cells; expected {max(32, 4 * side)} pixels or more, and side >= 1"
        )
    maps = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        # The last batch is filled up, so that only one shape is compiled.
        padding = np.zeros((_BATCH - len(batch), *batch.shape[1:]), np.uint8)
        features = _features(jnp.asarray(np.concatenate([batch, padding])), side)
        maps.append(np.asarray(features)[: len(batch)])
    return np.concatenate(maps) if maps else np.zeros((0, *_shape(images, side)), np.float32)


def _shape(images: np.ndarray, side: int) -> tuple[int, ...]:
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.uint8)
    return jax.eval_shape(functools.partial(_features, side=side), one).shape[1:]


@functools.partial(jax.jit, static_argnames="side")
def _features(images: jax.Array, side: int) -> jax.Array:
    rgb = images.astype(jnp.float32) / 255
    brightness = rgb @ jnp.array([0.299, 0.587, 0.114])
    # Colours at half the size: blurring first removes grain, and it is four times less work.
    lab = _cielab(_blurred(rgb)[:, ::2, ::2])
    colors = _color_names(lab)  # [n, height / 2, width / 2, 12]

    energies, blobs, second = [], [], []
    level = brightness
    for octave in range(_OCTAVES):
        energy = _oriented_energy(level)
        energies.append(energy)
        blobs.append(_blobs(level))
        if octave < _OCTAVES - 1:
            second.append(_second_layer(energy))
        level = _halved(level)
    hue_energy = [_oriented_energy(lab[..., axis] / 100) for axis in (1, 2)]
    # How busy each pixel's surround is on each octave, saturating at a strong edge.
    size = colors.shape[1:3]
    texture = [
        1 - jnp.exp(-8 * _resized(_blurred(e.sum(-1, keepdims=True)), size)) for e in energies
    ]
    flat = jnp.prod(1 - jnp.concatenate(texture, -1), axis=-1, keepdims=True)
    color_texture = [colors * t for t in (flat, *texture)]

    def mean(x: jax.Array) -> jax.Array:
        return _pooled(x, side)

    def peak(x: jax.Array) -> jax.Array:
        return _pooled_peak(x, side)

    groups = [
        jnp.sqrt(mean(colors)),
        jnp.sqrt(peak(colors)),
        *(jnp.sqrt(mean(x)) for x in color_texture),
        *(4 * mean(x) for x in energies),
        *(2 * peak(x) for x in energies),
        *(4 * mean(x) for x in hue_energy),
        *(4 * peak(x) for x in blobs),
        *(16 * mean(x) for x in second),
    ]
    cells = jnp.concatenate(groups, axis=-1)
    # What is everywhere in a picture tells no part from another: keep what stands out.
    cells = jax.nn.relu(cells - cells.mean(axis=(1, 2), keepdims=True))
    return jnp.moveaxis(cells, -1, 1)


def _cielab(rgb: jax.Array) -> jax.Array:
    """CIELAB (D65) of sRGB in 0..1: brightness 0..100 and two opponent axes, about -100..100."""
    linear = jnp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = jnp.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / jnp.array([0.9505, 1.0, 1.089])
    f = jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _color_names(lab: jax.Array) -> jax.Array:
    """Soft membership ``[..., 12]`` of every pixel in the named colours; sums to 1."""
    prototypes = _cielab(jnp.array(list(COLOR_NAMES.values()), jnp.float32) / 255)
    # Brightness counts half: the same paint is darker in the shade.
    weight = jnp.array([0.5, 1.0, 1.0])
    distance = (((lab[..., None, :] - prototypes) * weight) ** 2).sum(-1)
    return jax.nn.softmax(-distance / (2 * _COLOR_WIDTH**2) * 4, axis=-1)


@functools.cache
def _gabor_filters() -> np.ndarray:
    """Quadrature pairs ``[9, 9, 1, 2 * orientations]``, wavelength five pixels, without mean."""
    x, y = np.meshgrid(np.arange(-4, 5), np.arange(-4, 5))
    envelope = np.exp(-(x**2 + y**2) / (2 * 1.9**2))
    filters = []
    for phase in (np.cos, np.sin):
        for k in range(_ORIENTATIONS):
            angle = np.pi * k / _ORIENTATIONS
            wave = phase(2 * np.pi / 5 * (x * np.cos(angle) + y * np.sin(angle)))
            wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())
            filters.append(wave / np.abs(wave).sum())
    return np.stack(filters, -1)[:, :, None].astype(np.float32)


def _oriented_energy(level: jax.Array, stride: int = 1) -> jax.Array:
    """``[n, h, w]`` -> ``[n, h, w, orientations]``: root of the summed squares of each pair."""
    filters = jnp.asarray(_gabor_filters())
    padded = jnp.pad(level[..., None], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    response = jax.lax.conv_general_dilated(
        padded, filters, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    even, odd = response[..., :_ORIENTATIONS], response[..., _ORIENTATIONS:]
    return jnp.sqrt(even**2 + odd**2 + 1e-8)


def _second_layer(energy: jax.Array) -> jax.Array:
    """Oriented energy, one octave up, of each of the first layer's maps: 6 x 6 channels."""
    n, h, w, k = energy.shape
    maps = jnp.moveaxis(energy, -1, 1).reshape(n * k, h, w)
    second = _oriented_energy(_halved(maps), stride=2)
    return jnp.moveaxis(second.reshape(n, k, *second.shape[1:]), 1, -1).reshape(
        n, *second.shape[1:3], -1
    )


def _blobs(level: jax.Array) -> jax.Array:
    """Difference of Gaussians, split into bright and dark: ``[n, h, w, 2]``."""
    fine = _blurred(level[..., None])
    difference = fine - _blurred(_blurred(_blurred(fine)))
    return jax.nn.relu(jnp.concatenate([difference, -difference], -1))


def _blurred(x: jax.Array) -> jax.Array:
    """Binomial blur of ``[n, h, w, c]`` over five pixels; the border is repeated outward."""
    # Sums of shifted copies: on a CPU, XLA runs them much faster than a depthwise convolution.
    for axis in (1, 2):
        length = x.shape[axis]
        padding = [(0, 0)] * 4
        padding[axis] = (2, 2)
        padded = jnp.pad(x, padding, mode="edge")
        shifted = [
            jax.lax.slice_in_dim(padded, shift, shift + length, axis=axis) for shift in range(5)
        ]
        x = (shifted[0] + shifted[4] + 4 * (shifted[1] + shifted[3]) + 6 * shifted[2]) / 16
    return x


def _halved(level: jax.Array) -> jax.Array:
    return _blurred(level[..., None])[:, ::2, ::2, 0]


def _resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")


def _windows(pixels: int, side: int) -> np.ndarray:
    """Weights ``[side, pixels]`` of each cell: a Gaussian that reaches into its neighbours."""
    centers = (np.arange(side) + 0.5) / side
    positions = (np.arange(pixels) + 0.5) / pixels
    weights = np.exp(-0.5 * ((positions - centers[:, None]) * side / 0.5) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _pooled(x: jax.Array, side: int) -> jax.Array:
    """Weighted mean over each cell: ``[n, h, w, c]`` -> ``[n, side, side, c]``."""
    rows, columns = _windows(x.shape[1], side), _windows(x.shape[2], side)
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x)


def _pooled_peak(x: jax.Array, side: int) -> jax.Array:
    """Like the mean, of fourth powers: near the maximum where a cell holds one strong response."""
    return _pooled(x**4, side) ** 0.25
