"""The mapped axes that a step or a prediction runs under."""

from __future__ import annotations

from typing import NamedTuple

from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.column_shards import ColumnShards


class Axes(NamedTuple):
    """Names of the axes of `shard_map` or `pmap`; None where nothing is sharded.

    Attributes:
      data: along which batches are sharded.
      rows: along which the rows of attributes are.
      columns: along which the columns of the region branch's matrices are.
    """

    data: str | None = None
    rows: AttributeShards | None = None
    columns: ColumnShards | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all axes: a sum along them is over all devices."""
        rows = () if self.rows is None else (self.rows.axis,)
        return rows if self.data is None else (self.data, *rows)


ALONE = Axes()
