"""How the models of a sweep lie on the devices: sharded over them, or all on each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dedn_jax.data.pipeline import Shard
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.mesh import REPLICATED, Layout, put_on_all

SEED = "seed"


@dataclasses.dataclass(frozen=True)
class ModelLayout:
    """How stacked models lie on the devices of all processes; what they share is replicated.

    Attributes:
      mesh: `[seed]` devices.
      models: how many there are.
    """

    mesh: Mesh
    models: int
    # Of a batch, which all models have in full.
    num_shards = 1
    host_shard = Shard()
    axes: Axes = ALONE

    @classmethod
    def of_devices(cls, models: int) -> ModelLayout:
        """On all devices of all processes, those of a process next to each other."""
        return cls(Mesh(Layout.of_devices().mesh.devices.reshape(-1), (SEED,)), models)

    @property
    def shards_models(self) -> bool:
        """Whether every device has models of its own; else each has, and computes, all of them."""
        return self.models % self.mesh.size == 0

    @property
    def by_model(self) -> PartitionSpec:
        """Of arrays whose first axis is that of the models."""
        return PartitionSpec(SEED) if self.shards_models else REPLICATED

    @property
    def by_step_and_model(self) -> PartitionSpec:
        """Of arrays whose second axis is that of the models."""
        return PartitionSpec(None, SEED) if self.shards_models else REPLICATED

    def place(self, tree: Any) -> Any:
        """Arrays `[models, ...]` on the devices; all processes pass equal ones."""
        return self._put(tree, self.by_model)

    def replicate(self, tree: Any) -> Any:
        """Arrays that all models share, on every device; all processes pass equal ones."""
        return self._put(tree, REPLICATED)

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(self.mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda x: put_on_all(x, sharding), tree)

    def put(self, array: Any, _: PartitionSpec) -> jax.Array:
        """As `Layout.put`; no batch is sharded here."""
        return self.replicate(array)

    def padded_rows(self, rows: int) -> int:
        """As in `Layout`: nothing is padded."""
        return rows

    def shard_batch(self, array: np.ndarray, _: int) -> jax.Array:
        """As in `Layout`, but replicated."""
        return self.replicate(array)

    def compile(
        self,
        function: Callable[..., Any],
        in_specs: Any,
        out_specs: Any,
        donate: tuple[int, ...] = (),
        read: Any = None,
    ) -> Callable[..., Any]:
        """`function` of stacked models as one program, without collectives in one process.

        Args:
          function: of the models of one device.
          in_specs: a `PartitionSpec` for every argument.
          out_specs: the same for the results.
          donate: arguments whose memory the results may reuse.
          read: of the results, where several processes are to read them on the host: replicated
            ones in place of some of `out_specs`.
        """
        if self.mesh.size > 1:
            function = jax.shard_map(
                function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
            )
        if read is None or jax.process_count() == 1:
            return jax.jit(function, donate_argnums=donate)
        shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), read)
        return jax.jit(function, donate_argnums=donate, out_shardings=shardings)


def one_by_one() -> bool:
    """Whether a device computes its models one after the other, or all in the same operations.

    One model keeps a CPU's cores busy, and what it computes stays in their caches; all at once take
    1.1 to 1.3 times as long.
    """
    return jax.default_backend() == "cpu"


def each_model(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *shared)`, of stacked models: `(models, *shared) -> stacked results`."""

    def of_all(models: Any, *shared: Any) -> Any:
        def one(model: Any) -> Any:
            return function(model, *shared)

        return jax.lax.map(one, models) if one_by_one() else jax.vmap(one)(models)

    return of_all


def stack(trees: Sequence[Any]) -> Any:
    """Equally shaped trees as one whose arrays have a leading axis; on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)
