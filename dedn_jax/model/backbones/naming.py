"""How files of pretrained weights name and lay out what is in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

# Axes of a stored kernel in our order: [height, width, in, out].
HWIO = (0, 1, 2, 3)
FROM_OIHW = (2, 3, 1, 0)
FROM_HWCM = (0, 1, 3, 2)  # Keras's depthwise: [height, width, channels, 1]
FROM_OI = (1, 0)  # of a linear layer, [in, out]


class Stored(NamedTuple):
    """Where a file has one of our arrays.

    Attributes:
      names: in the file, `{}` for each index; several are joined along our last axis.
      axes: of a stored array in our order; None: as stored.
      first: the number of the first of its kind, one for each index; ours start at 0.
      leading: axes of length 1 that come before those.
      absent: positions in `names` that no file has; zeros take their place.
      grid_after: for position embeddings: how many of them come before those of a square grid,
        which may have another size than ours; None: the shape is fixed.
      non_negative: it is a variance.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    first: tuple[int, ...] = ()
    leading: int = 0
    absent: tuple[int, ...] = ()
    grid_after: int | None = None
    non_negative: bool = False


class Naming(NamedTuple):
    """How a kind of file names and lays out what is in it.

    Attributes:
      origin: for messages.
      arrays: our path of an array, `{}` for each index -> where the file has it.
      ignored: whether a name that is none of those may be there.
      roots: what all names may begin with; names without it then belong to another network.
    """

    origin: str
    arrays: Mapping[str, Stored]
    ignored: Callable[[str], bool]
    roots: tuple[str, ...] = ("",)


class LayerNames(NamedTuple):
    """Names of a convolution and of its batch norm in a file, `{}` for each index.

    Attributes:
      first: see `Stored`.
      depthwise: whether its kernel is named as a depthwise one.
    """

    conv: str
    norm: str
    first: tuple[int, ...] = ()
    depthwise: bool = False


class Convention(NamedTuple):
    """What a framework calls the arrays of convolutions and batch norms.

    Attributes:
      kernel, depthwise: name and axes of a kernel under its convolution's name.
      norm: names of scale, bias, mean and variance under the batch norm's.
      separator: between a layer's name and its array's.
    """

    kernel: tuple[str, tuple[int, ...]]
    depthwise: tuple[str, tuple[int, ...]]
    norm: tuple[str, str, str, str]
    separator: str


KERAS = Convention(
    kernel=("kernel", HWIO),
    depthwise=("depthwise_kernel", FROM_HWCM),
    norm=("gamma", "beta", "moving_mean", "moving_variance"),
    separator="/",
)
TORCH = Convention(
    kernel=("weight", FROM_OIHW),
    depthwise=("weight", FROM_OIHW),
    norm=("weight", "bias", "running_mean", "running_var"),
    separator=".",
)


def conv_norms(layers: Mapping[str, LayerNames], convention: Convention) -> dict[str, Stored]:
    """The arrays of `ConvNorm` layers.

    Args:
      layers: our path of a layer -> its names.
      convention: what their arrays are called.
    """
    arrays = {}
    between = convention.separator
    for path, layer in layers.items():
        name, axes = convention.depthwise if layer.depthwise else convention.kernel
        arrays[f"{path}.kernel"] = Stored((f"{layer.conv}{between}{name}",), axes, layer.first)
        for part, name in zip(("scale", "bias", "mean", "variance"), convention.norm, strict=True):
            arrays[f"{path}.{part}"] = Stored(
                (f"{layer.norm}{between}{name}",),
                first=layer.first,
                non_negative=part == "variance",
            )
    return arrays
