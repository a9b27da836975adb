"""Loads pretrained weights from a file into a backbone, checked before anything is changed.

The suffix decides the format, `Backbone.namings` the names inside, which may have a prefix. Files
are untrusted: no code in them is run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jaxtyping import Float32

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import ZIP_MAGIC, advice_on_unreadable
from dedn_jax.files import named_file_sha256
from dedn_jax.model.backbones.layers import Backbone, Pretrained
from dedn_jax.model.backbones.naming import Naming, Stored
from dedn_jax.numpy_files import read_npz
from dedn_jax.paths import local_path
from dedn_jax.torch_files import read_state_dict

_MAX_BYTES = 4 * 2**30  # a whole CLIP or SigLIP of size L takes 1.6 to 2.6 GiB in float32
_FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
_FLOAT_NAMES = "float16, bfloat16, float32 or float64"


class WeightsFile(NamedTuple):
    """The file of weights that a run used, for its records.

    Attributes:
      path: as given.
      sha256: of the file's bytes, hexadecimal.
    """

    path: str
    sha256: str


class Place(NamedTuple):
    """An array of a network, and where a kind of file has it."""

    variable: nnx.Variable
    stored: Stored
    names: tuple[str | None, ...]  # of its parts; None: no file has that part
    shape: tuple[int, ...]  # of a part in a file

    def refused(self, shape: tuple[int, ...]) -> bool:
        """Whether a part cannot have this shape in a file."""
        grid, axis = self.stored.grid_after, self.stored.leading
        if grid is None or len(shape) != len(self.shape):
            return shape != self.shape
        others = shape[:axis] + self.shape[axis : axis + 1] + shape[axis + 1 :]
        positions = shape[axis] - grid
        return others != self.shape or positions < 1 or isqrt(positions) ** 2 != positions


def load_weights(backbone: Backbone, path: str | Path) -> WeightsFile:
    """Loads pretrained weights and running statistics into `backbone`, all of them or none.

    Args:
      backbone: changed in place; values become float32. It may be abstract, as `nnx.eval_shape`
        makes it.
      path: `.pth`, `.pt`, `.tar` (as `.pth.tar`, no archive), `.bin`, `.ckpt`, `.safetensors` or
        `.npz`.

    Raises:
      InputError: no such file, another format, a damaged file, or names, sizes or types that are
        not this backbone's.
    """
    path = local_path(path)
    arrays, digest = read_weights(path)
    assign_weights(backbone, arrays, source=str(path))
    return WeightsFile(str(path), digest)


def read_weights(
    path: Path, setting: str = "config.backbone.weights"
) -> tuple[dict[str, np.ndarray], str]:
    """Every array of a file by its name there, and the SHA-256 of the file.

    Args:
      path: the file.
      setting: which names it, for messages.

    Raises:
      InputError: see `load_weights`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: unknown format; expected a file that ends in {', '.join(_READERS)}"
        )
    digest = named_file_sha256(path, setting, _MAX_BYTES)
    try:
        return reader(path), digest
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def assign_weights(
    network: Pretrained, arrays: Mapping[str, np.ndarray], source: str = "weights"
) -> None:
    """Copies arrays, named as one of `network.namings` or as here, into `network`: all or none.

    Args:
      network: changed in place.
      arrays: float16, bfloat16, float32 or float64, by name.
      source: where the arrays come from, for messages.

    Raises:
      InputError: a name is missing or unexpected, or an array has another shape, is not of
        floating-point type or not finite, or holds a negative variance.
    """
    naming, start, found = _match(network, arrays, source)
    names = _names(found)
    missing = [key for key in names if key not in arrays]
    unexpected = [
        key
        for key in arrays
        if key.startswith(start)
        and key not in names
        and not naming.ignored(key.removeprefix(start))
    ]
    for problem, keys in (("lacks", missing), ("has unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise InputError(
                f"{source}: {problem} {', '.join(keys[:3])}{more}; expected {naming.origin} with "
                f"{len(names)} arrays; is the file for the backbone in the config?"
            )
    values = [_value(place, arrays, source) for place in found]
    for place, value in zip(found, values, strict=True):
        place.variable.set_value(jnp.asarray(value))


def expected_arrays(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays that a file for `backbone` holds, by its first naming."""
    naming = backbone.namings[0] if backbone.namings else own_naming(backbone)
    found = places(backbone, naming, naming.roots[0])
    return {name: place.shape for name, place in _names(found).items()}


def own_naming(network: Pretrained) -> Naming:
    """Our own names and layouts, which can hold any network."""
    paths = [_generic(path) for path, value in nnx.iter_graph(network) if _is_array(value)]
    return Naming(
        origin="a backbone that `dedn export --format=backbone` wrote",
        arrays={p: Stored((p,), non_negative=p.endswith(".variance")) for p in paths},
        ignored=lambda _: False,
    )


def _match(
    network: Pretrained, arrays: Mapping[str, np.ndarray], source: str
) -> tuple[Naming, str, list[Place]]:
    """The kind of file that the most names fit, what they all begin with, and the places.

    Raises:
      InputError: the file holds the network twice, with different values.
    """
    own = own_naming(network)
    kinds = [(naming, root) for naming in network.namings for root in naming.roots]
    if not kinds or all(key in arrays for key in _names(places(network, own, ""))):
        kinds = [(own, "")]
    matches: dict[tuple[str, str], tuple[Naming, str, list[Place]]] = {}
    for naming, root in kinds:
        for prefix in _prefixes(_names(places(network, naming, root)), arrays):
            start = prefix + root
            if (naming.origin, start) not in matches:
                matches[naming.origin, start] = naming, start, places(network, naming, start)
    lacking = [sum(k not in arrays for k in _names(m[2])) for m in matches.values()]
    best, *others = sorted(zip(lacking, matches.values(), strict=True), key=lambda m: m[0])
    for missing, (naming, start, found) in others:
        if best[0] == missing == 0 and naming is best[1][0]:
            pairs = zip(_names(best[1][2]), _names(found), strict=True)
            if not all(np.array_equal(arrays[a], arrays[b]) for a, b in pairs):
                raise InputError(
                    f"{source}: holds the network twice, behind {best[1][1]!r} and {start!r}; save "
                    "the one to use alone"
                )
    return best[1]


def _prefixes(names: Collection[str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What names in a file may have before ours: nothing, `module.`, `model.backbone.`, ..."""
    ordered = list(names)
    probes = {ordered[0], ordered[len(ordered) // 2], ordered[-1]}
    found = {
        key.removesuffix(probe) for probe in probes for key in arrays if key.endswith("." + probe)
    }
    return ["", *sorted(found)]


def places(network: Pretrained, naming: Naming, root: str) -> list[Place]:
    """Of every parameter and statistic of the network."""
    found = []
    for path, variable in nnx.iter_graph(network):
        if not _is_array(variable):
            continue
        indices = [step for step in path if isinstance(step, int)]
        stored = naming.arrays[_generic(path)]
        numbers = np.add(indices, stored.first) if stored.first else indices
        names = tuple(
            None if i in stored.absent else root + name.format(*numbers)
            for i, name in enumerate(stored.names)
        )
        *others, last = variable.shape
        ours = (*others, last // len(names))
        axes = stored.axes or tuple(range(len(ours)))
        shape = tuple(int(ours[axes.index(axis)]) for axis in range(len(axes)))
        found.append(Place(variable, stored, names, (1,) * stored.leading + shape))
    return found


def _generic(path: Sequence[object]) -> str:
    """The name of an array with `{}` for each index."""
    return ".".join("{}" if isinstance(step, int) else str(step) for step in path)


def _is_array(value: object) -> bool:
    return isinstance(value, nnx.Variable)


def _names(places: list[Place]) -> dict[str, Place]:
    return {name: place for place in places for name in place.names if name is not None}


def _value(place: Place, arrays: Mapping[str, np.ndarray], source: str) -> Float32[np.ndarray, ...]:
    """The array as float32 in our layout."""
    parts = [None if key is None else _part(place, key, arrays[key], source) for key in place.names]
    shape = next(part.shape for part in parts if part is not None)
    zeros = np.zeros(shape, np.float32)
    filled = [zeros if part is None else part for part in parts]
    return filled[0] if len(filled) == 1 else np.concatenate(filled, -1)


def _part(place: Place, key: str, array: np.ndarray, source: str) -> Float32[np.ndarray, ...]:
    if array.dtype.type not in _FLOATS:
        raise InputError(f"{source}: {key} is {array.dtype}, expected {_FLOAT_NAMES}")
    if place.refused(array.shape):
        grid = place.stored.grid_after
        free = "" if grid is None else f", or another square number plus {grid} of positions"
        raise InputError(f"{source}: {key} has shape {array.shape}, expected {place.shape}{free}")
    array = array.reshape(array.shape[place.stored.leading :])
    if place.stored.axes is not None:
        array = array.transpose(place.stored.axes)
    with np.errstate(over="ignore"):
        ours = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(ours).all():
        raise InputError(f"{source}: {key} holds NaN or infinite values; take other weights")
    if place.stored.non_negative and ours.min() < 0:
        raise InputError(f"{source}: {key} holds a variance of {ours.min()}, expected 0 or more")
    return ours


# --- formats -----------------------------------------------------------------------------------


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
            f"{path}: not a readable .safetensors file ({one_line(error)}); "
            f"{advice_on_unreadable(path, error)}"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, _MAX_BYTES)
    except ValueError as error:
        raise InputError(
            f"{path}: not a readable .npz file ({one_line(error)}); "
            f"{advice_on_unreadable(path, error, ZIP_MAGIC)}"
        ) from error


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    **dict.fromkeys((".pth", ".pt", ".tar", ".bin", ".ckpt"), read_state_dict),
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
