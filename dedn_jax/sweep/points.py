"""The grid of a sweep: which fields it varies, and the config of every point."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from dedn_jax.config import apply_overrides, flat_fields, unknown_field
from dedn_jax.errors import InputError
from dedn_jax.training.workdir import FREE_FIELDS

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


def make_points(config: ConfigDict, grid: Sequence[str]) -> list[Point]:
    """Every combination of the values of `grid`, the last field varying fastest.

    Args:
      config: a checked config.
      grid: `section.field=a,b,c`, a field each.

    Raises:
      InputError: no such field, one that a grid cannot vary, a field or a value given twice, a
        value of the wrong type or outside its range.
    """
    axes: dict[str, list[str]] = {}
    for flag in grid:
        field, values = _parse(flag)
        check_field(config, field, f"--grid {flag}")
        if field in axes:
            raise InputError(f"--grid {flag}: config.{field} is given twice; name all values once")
        axes[field] = values
    for field, values in axes.items():
        # One by one first: the message then names a value, not a whole point.
        alone = [flat_fields(_with(config, {field: value}).to_dict())[field] for value in values]
        if len(set(alone)) < len(alone):
            raise InputError(f"--grid {field}={','.join(values)}: a value is given twice")
    points = []
    for chosen in itertools.product(*axes.values()):
        changed = _with(config, dict(zip(axes, chosen, strict=True)))
        known = flat_fields(changed.to_dict())
        points.append(Point({field: known[field] for field in axes}, changed))
    return points


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


def _with(config: ConfigDict, values: dict[str, str]) -> ConfigDict:
    flags = [f"--config.{field}={value}" for field, value in values.items()]
    return apply_overrides(ConfigDict(config.to_dict()), flags, "--grid")
