"""The mesh of devices, and how batches and parameters are laid out on it.

Streamed batches are sharded here (`Layout.batch`); `PmapExecutor` splits its own, and batches of
resident features are drawn shard by shard in `resident/batches.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from ml_collections import ConfigDict

from dedn_jax.data.pipeline import Batch, Shard
from dedn_jax.errors import InputError
from dedn_jax.model.attribute_shards import AttributeShards
from dedn_jax.model.column_shards import ColumnShards, has_column_shards
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.processes import is_main

DATA, ATTRIBUTE = "data", "attribute"
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(DATA)
COLUMNS = PartitionSpec(None, DATA)
# In place of a `PartitionSpec`, for a training state: that of each of its arrays.
STATE = object()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How batches and parameters lie on the devices of all processes.

    Batches are sharded along the mesh axis `data`, the rows of attributes that they are multiplied
    with along the axis `attribute`. A training state is replicated, or the columns of its large
    matrices are sharded along `data` (ZeRO: Rajbhandari et al., arXiv 1910.02054).

    Attributes:
      mesh: `[data, attribute]` devices, those of a process next to each other.
      shard_state: whether those columns are sharded.
    """

    mesh: Mesh
    shard_state: bool = False

    @classmethod
    def of_devices(
        cls, devices: Any = None, attribute_shards: int = 1, shard_state: bool = False
    ) -> Layout:
        """A layout of `devices`, by default of all.

        Args:
          devices: JAX devices.
          attribute_shards: how many devices share the attributes of the same images.
          shard_state: as the attribute.

        Raises:
          InputError: a number of shards that does not divide the devices.
        """
        # A process reads consecutive rows, but the ids of a TPU pod's chips do not keep those of a
        # host together.
        ordered = sorted(
            jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id)
        )
        per_process = len(ordered) // len({d.process_index for d in ordered})
        n = attribute_shards
        if len(ordered) % n or (per_process % n and n % per_process):
            raise InputError(
                f"config.distribution.attribute_shards={n} does not fit {len(ordered)} devices, "
                f"{per_process} in a process; use a divisor or a multiple of {per_process} that "
                f"divides {len(ordered)}"
            )
        return cls(Mesh(np.asarray(ordered).reshape(-1, n), (DATA, ATTRIBUTE)), shard_state)

    @classmethod
    def from_config(cls, config: ConfigDict, params: Any, devices: Any = None) -> Layout:
        """The layout of `config.distribution`.

        Args:
          config: a checked config.
          params: of the model, or their shapes.
          devices: as for `of_devices`.

        Raises:
          InputError: devices that do not divide into attribute shards, or columns over them.
        """
        distribution = config.distribution
        layout = cls.of_devices(devices, distribution.attribute_shards)
        shards = layout.num_shards
        columns = {
            leaf.shape[-1]
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if has_column_shards(_names(path))
        }
        divide = bool(columns) and all(channels % shards == 0 for channels in columns)
        if distribution.state == "sharded" and not divide:
            found = f"{columns.pop()} channels" if columns else "a model without region branches"
            raise InputError(
                f"config.distribution.state=sharded: {found} cannot be divided over the "
                f"{shards} shards of a batch; use auto or replicated"
            )
        wins = layout.platform == "tpu" and distribution.strategy == "jit" and divide
        sharded = distribution.state == "sharded" or (distribution.state == "auto" and wins)
        return dataclasses.replace(layout, shard_state=sharded)

    def state_note(self, choice: str) -> str:
        """What to say where `config.distribution.state`, by itself, shards the state; else ""."""
        if choice != "auto" or self.axes.columns is None:
            return ""
        return (
            f"parameters and optimiser slots: sharded over {self.num_shards} devices, as "
            "distribution.state=auto means here (scheduled, not measured; "
            "distribution.state=replicated has all of them on each)"
        )

    @property
    def platform(self) -> str:
        """Of its devices, as `jax.default_backend()` names it."""
        platform: str = self.mesh.devices.flat[0].platform
        return platform

    @property
    def packs_state(self) -> bool:
        """Whether steps take a state's parameters in one array: on GPUs, where they are whole."""
        return self.on_gpus and self.axes.columns is None

    @property
    def on_gpus(self) -> bool:
        """Whether its devices are GPUs."""
        return self.platform in ("gpu", "cuda", "rocm")

    @property
    def num_shards(self) -> int:
        """Shards of a batch."""
        return self.mesh.shape[DATA]

    @property
    def num_processes(self) -> int:
        """Processes that own the devices."""
        return len({d.process_index for d in self.mesh.devices.flat})

    @property
    def replicated(self) -> NamedSharding:
        """The same array on every device."""
        return NamedSharding(self.mesh, REPLICATED)

    @property
    def sharded(self) -> NamedSharding:
        """Sharded along the first axis."""
        return NamedSharding(self.mesh, SHARDED)

    @property
    def host_shard(self) -> Shard:
        """The rows of every batch that this process reads."""
        owners = [{d.process_index for d in row} for row in self.mesh.devices]
        local = [i for i, row in enumerate(owners) if jax.process_index() in row]
        num_hosts = self.num_shards // len(local)
        return Shard(local[0] // len(local), num_hosts, devices=self.num_shards)

    @property
    def axes(self) -> Axes:
        """The mapped axes of a function in `map_over_batch`."""
        if self.mesh.size == 1:
            return ALONE
        shards, columns = self.mesh.shape[ATTRIBUTE], None
        if self.shard_state and self.num_shards > 1:
            columns = ColumnShards(DATA, self.num_shards)
        return Axes(DATA, AttributeShards(ATTRIBUTE, shards) if shards > 1 else None, columns)

    def specs(self, tree: Any, spec: Any) -> Any:
        """A `PartitionSpec` for every array of a tree, or one for all.

        Args:
          tree: of arrays, or of their shapes.
          spec: of all; or `STATE`, for a training state or a part of it.
        """
        if spec is not STATE:
            return spec
        if self.axes.columns is None:
            return REPLICATED

        def of(path: Any, _: Any) -> PartitionSpec:
            return COLUMNS if has_column_shards(_names(path)) else REPLICATED

        return jax.tree_util.tree_map_with_path(of, tree)

    def map_over_batch(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        """`function` under `shard_map`: every device computes its shard of a batch.

        Left to partition the program by itself, XLA would not split loops over images, and would
        send every device all images in every iteration.

        Args:
          function: of the shards; its collectives go along `axes`.
          in_specs: a `PartitionSpec` for every argument, or `STATE` for the first.
          out_specs: the same for the results.
        """
        if self.mesh.size == 1:
            return function

        def mapped(*arguments: Any) -> Any:
            def of(spec: Any) -> Any:
                return self.specs(arguments[0], spec)

            ins, outs = (
                jax.tree.map(of, specs, is_leaf=lambda x: x is STATE)
                for specs in (in_specs, out_specs)
            )
            return jax.shard_map(
                function, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False
            )(*arguments)

        return mapped

    def compile(
        self,
        function: Callable[..., Any],
        in_specs: Any,
        out_specs: Any,
        donate: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """`map_over_batch`, compiled; the results are replicated, but for a state.

        Args:
          function, in_specs, out_specs: as there.
          donate: arguments whose memory the results may reuse.
        """
        mapped = self.map_over_batch(function, in_specs, out_specs)
        results: Any = self.replicated
        if self.axes.columns is not None and any(spec is STATE for spec in out_specs):
            results = tuple(None if spec is STATE else self.replicated for spec in out_specs)
        return jax.jit(mapped, donate_argnums=donate, out_shardings=results)

    def put(self, array: Any, spec: PartitionSpec) -> jax.Array:
        """Places on the devices an array that every process holds in full."""
        sharding = NamedSharding(self.mesh, spec)
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        return (
            jax.device_put(array, sharding)
            if self.num_processes == 1
            else put_on_all(array, sharding)
        )

    def replicate(self, tree: Any) -> Any:
        """Every array of a tree on every device; all processes pass equal ones."""
        return jax.tree.map(lambda x: self.put(x, REPLICATED), tree)

    def place_state(self, state: Any) -> Any:
        """A training state, or a part of it, as steps take it; all processes pass equal ones."""
        if self.axes.columns is None:
            return self.replicate(state)
        return jax.tree.map(self.put, state, self.specs(state, STATE))

    def gather_state(self, state: Any) -> Any:
        """What `place_state` took, replicated."""
        if self.axes.columns is None:
            return state
        return jax.jit(_same, out_shardings=self.replicated)(state)

    def padded_rows(self, rows: int) -> int:
        """Rows of a batch that is padded so that every device has as many."""
        return -(-rows // self.num_shards) * self.num_shards

    def shard_batch(self, array: np.ndarray, rows: int) -> jax.Array:
        """A batch's array on the devices, padded with zeros.

        Args:
          array: the rows of `host_shard`.
          rows: of the whole batch, on all processes.
        """
        total = self.padded_rows(rows)
        missing = total // self.host_shard.processes - len(array)
        if missing:
            array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        if self.num_processes == 1:
            return jax.device_put(array, self.sharded)
        return jax.make_array_from_process_local_data(
            self.sharded, array, (total, *array.shape[1:])
        )

    def weights(self, rows: int) -> np.ndarray | None:
        """`Batch.weights` of this process's rows; None where nothing is padded."""
        if self.padded_rows(rows) == rows:
            return None
        return np.ones(len(range(*self.host_shard.part(rows).indices(rows))), np.float32)

    def batch(self, inputs: np.ndarray, labels: np.ndarray, rows: int) -> Batch:
        """A step's batch on the devices, from this process's rows of it."""
        weights = self.weights(rows)
        return Batch(
            self.shard_batch(inputs, rows),
            self.shard_batch(labels, rows),
            None if weights is None else self.shard_batch(weights, rows),
        )


def _same(tree: Any) -> Any:
    """One function for all programs that move arrays: each is compiled once."""
    return tree


def _names(path: Any) -> list[object]:
    """The keys of a path in a tree, where its parts have some."""
    return [getattr(part, "key", None) for part in path]


def put_on_all(array: Any, sharding: Sharding) -> jax.Array:
    """Places an array on devices of several processes, each of which holds it in full."""
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.jit(_same, out_shardings=sharding)(array)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])


def on_host(tree: Any) -> Any:
    """Arrays on the host, wherever their parts are; several processes have to ask together."""

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_replicated or x.is_fully_addressable:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def on_main_host(tree: Any) -> Any:
    """Copies of arrays on the host of process 0, wherever their parts are; elsewhere None.

    Several processes have to ask together; the others never hold more than one of the arrays.
    """

    def copied(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_replicated or x.is_fully_addressable):
            x = multihost_utils.process_allgather(x, tiled=True)
        return np.array(x) if is_main() else None

    found = jax.tree.map(copied, tree)
    return found if is_main() else None


def local_layout() -> Layout:
    """A layout of this process's own devices, for work that the processes divide."""
    return Layout.of_devices(jax.local_devices())
