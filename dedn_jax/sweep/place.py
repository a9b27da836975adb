"""Where the models of a sweep lie: a part of them on every device, or all on each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SEED = "seed"
REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Place:
    """How `models` stacked models lie on the devices.

    Attributes:
      mesh: `[seed]` devices.
      models: how many there are.
    """

    mesh: Mesh
    models: int

    @classmethod
    def of_devices(cls, models: int) -> Place:
        """On all devices of this process."""
        return cls(Mesh(np.asarray(jax.local_devices()), (SEED,)), models)

    @property
    def cut(self) -> bool:
        """Whether every device has models of its own; else each has, and computes, all of them."""
        return self.models % self.mesh.size == 0

    @property
    def by_model(self) -> PartitionSpec:
        """Of arrays whose first axis is that of the models."""
        return PartitionSpec(SEED) if self.cut else REPLICATED

    @property
    def by_step_and_model(self) -> PartitionSpec:
        """Of arrays whose second axis is that of the models."""
        return PartitionSpec(None, SEED) if self.cut else REPLICATED

    def put(self, tree: Any) -> Any:
        """Arrays `[models, ...]` onto the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, self.by_model))

    def share(self, tree: Any) -> Any:
        """Arrays that all models use, whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, REPLICATED))

    def compile(
        self, function: Callable[..., Any], cut: Any, out: Any, donate: Sequence[int] = ()
    ) -> Callable[..., Any]:
        """`function` of stacked models as one program; devices have nothing to say to each other.

        Args:
          function: of the models of one device.
          cut: for every argument its `PartitionSpec`.
          out: the same for the results.
          donate: arguments whose memory the results may take.
        """
        if self.mesh.size > 1:
            function = jax.shard_map(
                function, mesh=self.mesh, in_specs=cut, out_specs=out, check_vma=False
            )
        return jax.jit(function, donate_argnums=tuple(donate))


def in_turn() -> bool:
    """Whether a device computes its models one after the other, or all in the same operations.

    A CPU's cores are busy with one model, and its caches hold what is in between; all at once take
    1.1 to 1.3 times as long.
    """
    return jax.default_backend() == "cpu"


def each_model(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, *shared)`, of stacked models: `(models, *shared) -> stacked results`."""

    def of_all(models: Any, *shared: Any) -> Any:
        def one(model: Any) -> Any:
            return function(model, *shared)

        return jax.lax.map(one, models) if in_turn() else jax.vmap(one)(models)

    return of_all


def stack(trees: Sequence[Any]) -> Any:
    """Equally shaped trees as one whose arrays have a leading axis; on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)
