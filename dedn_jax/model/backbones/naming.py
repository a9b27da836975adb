"""How files of pretrained weights name and lay out what is in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

# Axes of a stored kernel in our order: [height, width, in, out].
HWIO = (0, 1, 2, 3)
FROM_OIHW = (2, 3, 1, 0)
FROM_HWCM = (0, 1, 3, 2)  # Keras's depthwise: [height, width, channels, 1]


class LayerNames(NamedTuple):
    """Names of a convolution and of its batch norm in a file, `{}` for each index.

    Attributes:
      first: the number of the first of its kind, one for each index; ours start at 0.
    """

    conv: str
    norm: str
    first: tuple[int, ...] = ()


class Naming(NamedTuple):
    """How a kind of file names and lays out what is in it.

    Attributes:
      origin: for messages.
      layers: our path of a `ConvNorm` -> its names.
      kernel, depthwise: name and axes of a kernel under its convolution's name.
      norm: names of scale, bias, mean and variance under the batch norm's.
      separator: between a layer's name and its array's.
      ignored: whether a name that belongs to no layer of ours may be there.
    """

    origin: str
    layers: Mapping[str, LayerNames]
    kernel: tuple[str, tuple[int, ...]]
    depthwise: tuple[str, tuple[int, ...]]
    norm: tuple[str, str, str, str]
    separator: str
    ignored: Callable[[str], bool]
