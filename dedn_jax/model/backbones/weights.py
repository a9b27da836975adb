"""Loads pretrained weights from a file into a backbone, checked before anything is changed.

The suffix (`.pth`/`.pt`, `.safetensors`, `.npz`) decides the format, `Backbone.naming` the names
inside. Files are untrusted: no code in them is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import named_file_sha256
from dedn_jax.model.backbones.layers import Backbone, ConvNorm
from dedn_jax.model.backbones.naming import Naming
from dedn_jax.numpy_files import read_npz
from dedn_jax.torch_files import read_state_dict

_MAX_BYTES = 2**30  # the largest ResNet takes 0.23 GiB
_FLOATS = (np.float16, np.float32, np.float64)
_PARTS = ("kernel", "scale", "bias", "mean", "variance")


class WeightsFile(NamedTuple):
    """The file of weights that a run used, for its records.

    Attributes:
      path: as given.
      sha256: of the file's bytes, hexadecimal.
    """

    path: str
    sha256: str


class _Slot(NamedTuple):
    """The place in the backbone for one array of a file."""

    layer: ConvNorm
    part: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]  # as stored


def load_weights(backbone: Backbone, path: str | Path) -> WeightsFile:
    """Loads pretrained weights and running statistics into `backbone`, all of them or none.

    Args:
      backbone: changed in place; values become float32. It may be abstract, as `nnx.eval_shape`
        makes it.
      path: `.pth` or `.pt` (needs PyTorch), `.safetensors` (needs the package of that name) or
        `.npz`.

    Raises:
      InputError: no such file, another format, a damaged file, or names, sizes or types that are
        not this backbone's.
    """
    path = Path(path).expanduser()
    if backbone.naming is None:
        raise InputError(
            f"{path}: a {type(backbone).__name__} has no pretrained weights; unset "
            "--config.backbone.weights and set --config.backbone.trained=true, or choose another "
            "--config.backbone.name"
        )
    arrays, digest = read_weights(path)
    assign_weights(backbone, arrays, source=str(path))
    return WeightsFile(str(path), digest)


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Every array of a file by its name there, and the SHA-256 of the file.

    Raises:
      InputError: see `load_weights`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: unknown format; expected a file that ends in {', '.join(_READERS)}"
        )
    digest = named_file_sha256(path, "config.backbone.weights", _MAX_BYTES)
    try:
        return reader(path), digest
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def assign_weights(
    backbone: Backbone, arrays: Mapping[str, np.ndarray], source: str = "weights"
) -> None:
    """Copies arrays, named as torchvision or Keras name them, into `backbone`: all or none.

    Args:
      backbone: a `ResNet` (torchvision's names, kernels OIHW) or `MobileNet` (Keras's, HWIO).
      arrays: float16, float32 or float64, by name.
      source: where the arrays come from, for messages.

    Raises:
      InputError: a name is missing or unexpected, or an array has another shape, is not of
        floating-point type or not finite, or holds a negative variance.
    """
    naming = _naming(backbone)
    slots = _slots(backbone, naming)
    missing = [key for key in slots if key not in arrays]
    unexpected = [key for key in arrays if key not in slots and not naming.ignored(key)]
    for problem, keys in (("lacks", missing), ("has unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise InputError(
                f"{source}: {problem} {', '.join(keys[:3])}{more}; expected {naming.origin} with "
                f"{len(slots)} arrays; is the file for the backbone in the config?"
            )
    values = {key: _checked(arrays[key], key, slot, source) for key, slot in slots.items()}
    for key, slot in slots.items():
        getattr(slot.layer, slot.part).set_value(jnp.asarray(values[key]))


def expected_arrays(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that a file for `backbone` holds."""
    return {key: slot.shape for key, slot in _slots(backbone, _naming(backbone)).items()}


def _naming(backbone: Backbone) -> Naming:
    if backbone.naming is None:
        raise TypeError(f"{type(backbone).__name__} names no weights")
    return backbone.naming


def _slots(backbone: Backbone, naming: Naming) -> dict[str, _Slot]:
    """Name in the file -> where it goes, for every parameter and statistic of the backbone."""
    slots = {}
    for path, layer in nnx.iter_modules(backbone):
        if not isinstance(layer, ConvNorm):
            if any(isinstance(value, nnx.Variable) for value in vars(layer).values()):
                raise TypeError(f"{type(layer).__name__} has weights, and only ConvNorm is loaded")
            continue
        indices = [step for step in path if isinstance(step, int)]
        pattern = ".".join("{}" if isinstance(step, int) else str(step) for step in path)
        conv, norm, first = naming.layers[pattern]
        numbers = [start + index for start, index in zip(first, indices, strict=True)]
        kernel, axes = naming.depthwise if layer.depthwise else naming.kernel
        names = [f"{conv}{naming.separator}{kernel}"]
        names += [f"{norm}{naming.separator}{name}" for name in naming.norm]
        for part, name in zip(_PARTS, names, strict=True):
            ours = getattr(layer, part).shape
            order = axes if part == "kernel" else (0,)
            stored = tuple(int(ours[order.index(axis)]) for axis in range(len(order)))
            slots[name.format(*numbers)] = _Slot(layer, part, order, stored)
    return slots


def _checked(array: np.ndarray, key: str, slot: _Slot, source: str) -> np.ndarray:
    """The array as float32 in our layout."""
    if array.dtype.type not in _FLOATS:
        raise InputError(f"{source}: {key} is {array.dtype}, expected float16, float32 or float64")
    if array.shape != slot.shape:
        raise InputError(f"{source}: {key} has shape {array.shape}, expected {slot.shape}")
    with np.errstate(over="ignore"):
        ours = np.ascontiguousarray(array.transpose(slot.axes), np.float32)
    if not np.isfinite(ours).all():
        raise InputError(f"{source}: {key} holds NaN or infinite values; download the file again")
    if slot.part == "variance" and ours.min() < 0:
        raise InputError(f"{source}: {key} holds a variance of {ours.min()}, expected 0 or more")
    return ours


# --- formats -----------------------------------------------------------------------------------


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    # torchvision still serves weights in the format before PyTorch 1.6.
    return read_state_dict(path, legacy=True)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs the package safetensors; run: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # the reader's own exceptions differ between its versions
        raise InputError(
            f"{path}: not a readable .safetensors file ({one_line(error)}); download it again"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, _MAX_BYTES)
    except ValueError as error:
        raise InputError(
            f"{path}: not a readable .npz file ({one_line(error)}); download it again"
        ) from error


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
