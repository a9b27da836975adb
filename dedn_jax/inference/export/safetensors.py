"""The parameters of a run as `.safetensors`, by their names in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import write_atomically
from dedn_jax.inference.export.backbone import trained_backbone
from dedn_jax.json_values import parse_json
from dedn_jax.training.run import TrainingRun
from dedn_jax.version import __version__

_FORMAT = "dedn-jax"
_MAX_BYTES = 8 * 2**30
_DTYPES = ("F32", "F16", "BF16", "F64")


def export_safetensors(run: TrainingRun, path: Path) -> None:
    """Writes the selected parameters; a trained backbone's too, and its running statistics.

    A frozen backbone is not in the file; see `left_out`.

    Names are those of the model, such as `coarse.region_score` and `fine.0.word_vectors`. The
    metadata has, as JSON, the resolved config, the names of classes and attributes, and the order
    of attributes in groups, which is that of the fine expert's rows.

    Args:
      run: a finished run.
      path: the file to write.

    Raises:
      InputError: the run is not finished.
    """
    data = run.outline
    metadata = {
        "format": _FORMAT,
        "version": __version__,
        "config": json.dumps(run.config.to_dict()),
        "class_names": json.dumps(data.class_names),
        "attribute_names": json.dumps(data.attribute_names),
        "group_names": json.dumps(run.groups.names),
        "group_members": json.dumps(run.groups.members),
        **{name: json.dumps(value) for name, value in run.mixing().to_json().items()},
    }
    values = _flat(run.params) | _statistics(run)
    arrays = {name: np.asarray(value) for name, value in values.items()}
    write_atomically(path, save(arrays, metadata))


def read_safetensors(run: TrainingRun, path: Path) -> nnx.State:
    """Parameters for `run.evaluate` from a file that `export_safetensors` wrote.

    Raises:
      InputError: no such file, one of another model or of attributes in another order, or of
        values that are no numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that `dedn export` wrote")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_BYTES}; give a file that "
            "`dedn export --format=safetensors` wrote"
        )
    statistics = _statistics(run)
    expected = _flat(run.network.params) | statistics
    try:
        with safe_open(path, "np") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            _check(path, {k: tuple(v.get_shape()) for k, v in found.items()}, expected)
            _check_attributes(path, file.metadata() or {}, run)
            for name, values in found.items():
                if values.get_dtype() not in _DTYPES:
                    raise InputError(
                        f"{path}: {name} is of type {values.get_dtype()}, expected one of "
                        f"{', '.join(_DTYPES)}; export it again"
                    )
            arrays = {name: file.get_tensor(name) for name in expected}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a readable .safetensors file ({one_line(error)}); export it again"
        ) from error
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise InputError(f"{path}: {name} has NaN or infinite values; export it again")
    for name, value in statistics.items():
        if not np.array_equal(arrays[name], np.asarray(value)):
            raise InputError(
                f"{path}: {name} differs from that of the run's backbone; it is of a run whose "
                "backbone started from other weights"
            )
    flat = {
        key: value.replace(jnp.asarray(arrays[_name(key)], value.dtype))
        for key, value in nnx.to_flat_state(run.network.params)
    }
    return nnx.from_flat_state(flat)


def _check(path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name not in found:
            raise InputError(
                f"{path}: lacks {name}; it is of another model: config.data.groups, "
                "config.model.rank or the backbone differ"
            )
        if found[name] != value.shape:
            raise InputError(
                f"{path}: {name} has shape {list(found[name])}, the run's model has "
                f"{list(value.shape)}; it is of another model or data set"
            )
    if unknown := sorted(found.keys() - expected.keys()):
        raise InputError(f"{path}: {unknown[0]} is no parameter of the run's model")


def _check_attributes(path: Path, metadata: dict[str, str], run: TrainingRun) -> None:
    """Raises InputError where the file says that its rows are of other attributes than the run's:
    shapes do not tell. A file of other origin may say nothing.
    """
    members, names = (_said(path, metadata, key) for key in ("group_members", "attribute_names"))
    if members is not None and members != [list(group) for group in run.groups.members]:
        raise InputError(
            f"{path}: its attributes are in other groups than the run's, so that the fine expert's "
            "rows are of other attributes; give the file of a run with the same config.data.groups"
        )
    own = list(run.outline.attribute_names)
    # Names may have been changed since; the same ones in another order are other attributes.
    if names is not None and names != own and sorted(map(str, names)) == sorted(own):
        a = next(i for i, (x, y) in enumerate(zip(names, own, strict=True)) if x != y)
        raise InputError(
            f"{path}: its attributes are in another order than the run's: number {a + 1} is "
            f"{names[a]!r}, the run's {own[a]!r}; give the file of a run on the same data set"
        )


def _said(path: Path, metadata: dict[str, str], key: str) -> list[Any] | None:
    """A list in the metadata; None where there is none."""
    if key not in metadata:
        return None
    try:
        value = parse_json(metadata[key])
    except ValueError as error:
        raise InputError(
            f"{path}: {key} in its metadata is no JSON ({one_line(error)}); export it again"
        ) from error
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} in its metadata is no list; export it again")
    return value


def _statistics(run: TrainingRun) -> dict[str, Any]:
    """What a trained backbone has besides parameters, and training leaves as it is."""
    return _flat(run.network.frozen) if trained_backbone(run) else {}


def _flat(params: nnx.State) -> dict[str, Any]:
    return {_name(key): value for key, value in nnx.to_flat_state(params)}


def _name(key: tuple[Any, ...]) -> str:
    return ".".join(map(str, key))
