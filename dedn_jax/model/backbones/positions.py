"""Where the patches of a picture are: learned embeddings for grids of any size, and rotary ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dedn_jax.model.backbones.layers import PRECISION
from dedn_jax.model.backbones.transformer import Rotation

_CUBIC = -0.75  # PyTorch's parameter of the kernel without antialiasing


def resized(
    positions: Float[Array, "positions width"], grid: tuple[int, int], *, antialias: bool
) -> Float[Array, "new_positions width"]:
    """Embeddings of a square grid, interpolated to another grid; the same grid stays as it is.

    As `torch.nn.functional.interpolate(mode="bicubic", antialias=antialias)`, whose two kernels
    differ also where nothing is made smaller.

    Args:
      positions: row by row; a square number.
      grid: rows and columns.
      antialias: whether smaller grids average over more than the nearest four points.
    """
    side = round(positions.shape[0] ** 0.5)
    if grid == (side, side):
        return positions
    width = positions.shape[1]
    square = positions.reshape(side, side, width)
    if antialias:
        new = jax.image.resize(square, (*grid, width), "cubic", precision=PRECISION)
    else:
        rows, columns = (jnp.asarray(_cubic(side, n)) for n in grid)
        new = jnp.einsum("ry,cx,yxw->rcw", rows, columns, square, precision=PRECISION)
    return new.reshape(-1, width)


def _cubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """What each new point takes of the old ones; those beyond an end are the end's."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for i in range(4):
        at = first + i
        d = np.abs(centres - at)
        near = (_CUBIC + 2) * d**3 - (_CUBIC + 3) * d**2 + 1
        far = _CUBIC * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(weights, (np.arange(new), at.clip(0, old - 1)), np.where(d <= 1, near, far))
    return weights.astype(np.float32)


def rotary(grid: tuple[int, int], head: int, theta: float) -> Rotation:
    """DINOv3's rotary embedding: a quarter of a head's channels for each sine and axis.

    A patch's centre has coordinates from -1 to 1 along both axes, whatever the grid, and is turned
    by `2π · coordinate / theta^(4i / head)`. Source: Siméoni et al., arXiv 2508.10104.

    Args:
      grid: rows and columns of patches.
      head: channels of an attention head, a multiple of 4.
      theta: the base of the frequencies.
    """
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in grid]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2, 1)
    frequencies = theta ** -(np.arange(head // 4) * 4 / head)
    angles = np.tile((2 * np.pi * centres * frequencies).reshape(len(centres), -1), 2)
    cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))
    return Rotation(cos, sin)
