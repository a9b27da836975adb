"""The points of a sweep from a file, each with a name: ablations, comparisons."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.config import apply_overrides, find_config, run_config_file
from dedn_jax.errors import InputError
from dedn_jax.sweep.points import Point, check_field

_SHAPE = (
    "write it like configs/ablations/paper.py, with a function get_points() that returns a dict "
    "of dicts, the fields of every point by its name"
)


def read_points(config: ConfigDict, name_or_path: str | Path) -> list[Point]:
    """The points of a file: `config` with the fields that each changes.

    Args:
      config: a checked config.
      name_or_path: a Python file with a `get_points()`, or the name of one in `configs/ablations/`.

    Raises:
      InputError: no such file, no points in it, a field that a sweep cannot vary, or a bad value.
    """
    path = find_config(name_or_path, "ablations")
    named = run_config_file(path, "get_points", _SHAPE)
    if not isinstance(named, dict) or not named:
        raise InputError(f"{path}: get_points() returned {named!r:.80}; {_SHAPE}")
    if bad := [name for name, fields in named.items() if not isinstance(fields, dict)]:
        raise InputError(f"{path}: point {bad[0]!r} is no dict of fields; {_SHAPE}")
    points = []
    for name, fields in named.items():
        where = f"{path}: point {name!r}"
        for field in fields:
            check_field(config, field, where)
        changed = apply_overrides(ConfigDict(config.to_dict()), fields, where)
        points.append(Point(dict(fields), changed, str(name)))
    return points
