"""The mesh of devices, and how batches and parameters are sharded over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dedn_jax.data.pipeline import Batch, Shard
from dedn_jax.errors import InputError
from dedn_jax.model.row_shards import RowShards
from dedn_jax.parallel.axes import ALONE, Axes

DATA, ATTRIBUTE = "data", "attribute"
WHOLE, CUT = PartitionSpec(), PartitionSpec(DATA)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How batches and parameters lie on the devices of all processes.

    Batches are cut along the axis `data` of the mesh, and the rows of attributes that they are
    multiplied with along the axis `attribute`; parameters are on every device.

    Attributes:
      mesh: `[data, attribute]` devices, those of a process next to each other.
    """

    mesh: Mesh

    @classmethod
    def of_devices(cls, devices: Any = None, attribute_shards: int = 1) -> Layout:
        """A layout of `devices`, of all there are by default.

        Args:
          devices: see above.
          attribute_shards: devices that share out the rows of attributes of the same images.

        Raises:
          InputError: a number of shards that does not fit the devices.
        """
        # A process reads rows that follow each other; the numbers of a TPU pod's chips do not keep
        # a host's together.
        ordered = sorted(
            jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id)
        )
        here = len(ordered) // len({d.process_index for d in ordered})
        n = attribute_shards
        if len(ordered) % n or (here % n and n % here):
            raise InputError(
                f"config.distribution.attribute_shards={n}: {len(ordered)} devices, {here} in a "
                "process, cannot be shared out; take a divisor or a multiple of those in a "
                "process that divides all of them"
            )
        return cls(Mesh(np.asarray(ordered).reshape(-1, n), (DATA, ATTRIBUTE)))

    @property
    def parts(self) -> int:
        """How many a batch is cut into."""
        return self.mesh.shape[DATA]

    @property
    def processes(self) -> int:
        """Whose devices these are."""
        return len({d.process_index for d in self.mesh.devices.flat})

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_batch(self) -> NamedSharding:
        """Cut along the first axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA))

    @property
    def shard(self) -> Shard:
        """The part of every batch that this process reads."""
        owners = [{d.process_index for d in row} for row in self.mesh.devices]
        here = [i for i, row in enumerate(owners) if jax.process_index() in row]
        return Shard(here[0] // len(here), self.parts // len(here), devices=self.parts)

    def over_batch(self, function: Callable[..., Any], cut: Any, out: Any) -> Callable[..., Any]:
        """`function` as one program in which every device computes its part of a batch.

        Left to cut the program by itself, XLA would leave loops over images whole, and send every
        device all images in every turn.

        Args:
          function: of the parts; what it says to other devices goes by `axes`.
          cut: for every argument its `PartitionSpec`.
          out: the same for the results.
        """
        if self.mesh.size == 1:
            return function
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=cut,
            out_specs=out,
            check_vma=False,
        )

    @property
    def axes(self) -> Axes:
        """Those that a function in `over_batch` runs under."""
        shards = self.mesh.shape[ATTRIBUTE]
        if self.mesh.size == 1:
            return ALONE
        return Axes(DATA, RowShards(ATTRIBUTE, shards) if shards > 1 else None)

    def put(self, array: Any, spec: PartitionSpec) -> jax.Array:
        """An array that all processes have whole, onto the devices."""
        sharding = NamedSharding(self.mesh, spec)
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if self.processes == 1:
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device; equal ones are given by all processes."""
        return jax.tree.map(lambda x: self.put(x, WHOLE), tree)

    def rows(self, rows: int) -> int:
        """Rows of a batch once it is filled up so that every device has as many."""
        return -(-rows // self.parts) * self.parts

    def cut(self, array: np.ndarray, rows: int) -> jax.Array:
        """A batch's array on the devices, filled up with zeros.

        Args:
          array: the rows that `shard` gives to this process.
          rows: of the whole batch, on all processes.
        """
        total = self.rows(rows)
        missing = total // self.shard.processes - len(array)
        if missing:
            array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        if self.processes == 1:
            return jax.device_put(array, self.by_batch)
        return jax.make_array_from_process_local_data(
            self.by_batch, array, (total, *array.shape[1:])
        )

    def weights(self, rows: int) -> np.ndarray | None:
        """`Batch.weights` of this process's rows; None where no row is filled up."""
        if self.rows(rows) == rows:
            return None
        return np.ones(len(range(*self.shard.part(rows).indices(rows))), np.float32)

    def batch(self, inputs: np.ndarray, labels: np.ndarray, rows: int) -> Batch:
        """A step's batch on the devices, from this process's rows of it."""
        weights = self.weights(rows)
        return Batch(
            self.cut(inputs, rows),
            self.cut(labels, rows),
            None if weights is None else self.cut(weights, rows),
        )


def local_layout() -> Layout:
    """A layout of this process's own devices, for work that processes share out."""
    return Layout.of_devices(jax.local_devices())
