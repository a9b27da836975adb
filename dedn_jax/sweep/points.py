"""The grid of a sweep: which fields it varies, and the config of every point."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.config import Overrides, apply_overrides, flat_fields, unknown_field
from dedn_jax.errors import InputError, check_type
from dedn_jax.training.workdir import FREE_FIELDS

# As `make_points` takes it.
Grid = Sequence[str] | Mapping[str, Sequence[object]]
# Sections and fields that no grid can vary, and why.
_REFUSED = {
    "data": "would make it another data set; give a sweep of its own for each",
    "seed": "is what --seeds varies",
    "distribution": "changes no number; models are sharded over all devices",
    "picture": "has no effect on features, which a sweep trains from",
    "backbone": "has no effect on features, which a sweep trains from",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of the grid.

    Attributes:
      fields: the values that the grid gives it, by field; empty where there is no grid.
      config: the whole config with these values.
      name: of a point from a file.
    """

    fields: dict[str, object]
    config: ConfigDict
    name: str | None = None

    def __str__(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.fields.items())
        return self.name or fields or "the config as it is"


def make_points(config: ConfigDict, grid: Grid) -> list[Point]:
    """Every combination of the values of `grid`, the last field varying fastest.

    Args:
      config: a checked config.
      grid: `section.field=a,b,c`, a field each; or the values by field.

    Raises:
      InputError: no such field, one that a grid cannot vary, a field or a value given twice, a
        value of the wrong type or outside its range.
    """
    axes = _axes(config, grid) if isinstance(grid, Mapping) else _axes_of_flags(config, grid)
    points = []
    for chosen in itertools.product(*axes.values()):
        fields = dict(zip(axes, chosen, strict=True))
        points.append(Point(fields, _with(config, fields, "grid")))
    return points


def _axes_of_flags(config: ConfigDict, grid: Sequence[str]) -> dict[str, list[object]]:
    axes: dict[str, list[object]] = {}
    for flag in grid:
        field, values = _parse(flag)
        check_field(config, field, f"--grid {flag}")
        if field in axes:
            raise InputError(f"--grid {flag}: config.{field} is given twice; name all values once")
        axes[field] = _typed(
            [_with(config, [f"--config.{field}={value}"], "--grid") for value in values],
            field,
            f"--grid {field}={','.join(values)}",
        )
    return axes


def _axes(config: ConfigDict, grid: Mapping[str, Sequence[object]]) -> dict[str, list[object]]:
    axes = {}
    for field, values in grid.items():
        where = f"grid {field}={values!r:.80}"
        check_type("a field of the grid", field, str, "text such as 'loss.margin'")
        check_field(config, field, where)
        check_type(where, values, list | tuple | np.ndarray, "a list of values")
        listed = np.asarray(values).tolist() if isinstance(values, np.ndarray) else list(values)
        if not listed:
            raise InputError(f"{where}: no value; give at least one")
        axes[field] = _typed([_with(config, {field: v}, "grid") for v in listed], field, where)
    return axes


def _typed(configs: Sequence[ConfigDict], field: str, where: str) -> list[object]:
    """The values of a field in these configs, all of its type and none twice."""
    values = [flat_fields(config.to_dict())[field] for config in configs]
    if len(set(values)) < len(values):
        raise InputError(f"{where}: a value is given twice")
    return values


def _parse(flag: str) -> tuple[str, list[str]]:
    field, equals, text = flag.partition("=")
    values = [value.strip() for value in text.split(",")]
    if not equals or not field or not all(values):
        raise InputError(f"--grid {flag}: expected section.field=a,b,c")
    return field.strip().removeprefix("config."), values


def check_field(config: ConfigDict, field: str, where: str) -> None:
    """Raises InputError where a sweep cannot vary a field."""
    known = flat_fields(config.to_dict())
    if field not in known:
        raise InputError(f"{where}: {unknown_field(field, known)}")
    reason = _REFUSED.get(field.split(".")[0])
    if reason and field != "data.groups":  # which belongs to the model
        raise InputError(f"{where}: config.{field} {reason}")
    if field in FREE_FIELDS:
        raise InputError(f"{where}: config.{field} changes no number; give it as an override")


def _with(config: ConfigDict, overrides: Overrides, where: str) -> ConfigDict:
    return apply_overrides(ConfigDict(config.to_dict()), overrides, where)
