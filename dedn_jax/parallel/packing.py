"""All parameters in one array, while steps run on GPUs.

The experts have five kinds of matrices, in seven networks for CUB: an optimiser that updates 35
arrays starts 35 kernels. Outside the steps (checkpoints, evaluation, files) the parameters keep
their names.

Not on a TPU, whose compiler keeps single matrices in vector memory from the sum of their gradients
to their update: packed, a step on v5e:4x8 would take 0.9 ms in place of 0.3, scheduled. Nor on a
CPU, which would copy each matrix to multiply it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

T = TypeVar("T")


class _Place(NamedTuple):
    """Where a leaf is.

    Attributes:
      dtype: its own, and so its array's.
      first: of its numbers there.
      shape: its own.
    """

    dtype: str
    first: int
    shape: tuple[int, ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["structure", "places"]
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A state whose leaves are one after another.

    Attributes:
      arrays: for each dtype, all numbers of that dtype.
      structure: of the state.
      places: of its leaves.
    """

    arrays: dict[str, jax.Array]
    structure: Any
    places: tuple[_Place, ...]

    @classmethod
    def of(cls, state: nnx.State) -> Packed:
        """Packs a state, leaves of a name together, whichever network they are of."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(state)
        parts: dict[str, list[jax.Array]] = {}
        places = {}
        names = [jax.tree_util.keystr(path[-2:]) for path, _ in leaves]
        for i in sorted(range(len(leaves)), key=names.__getitem__):
            leaf = leaves[i][1]
            before = parts.setdefault(str(leaf.dtype), [])
            places[i] = _Place(str(leaf.dtype), sum(part.size for part in before), leaf.shape)
            before.append(leaf.ravel())
        arrays = {dtype: jnp.concatenate(each) for dtype, each in parts.items()}
        return cls(arrays, structure, tuple(places[i] for i in range(len(leaves))))

    def state(self) -> nnx.State:
        """The state that was packed."""
        leaves = [
            self.arrays[dtype][first : first + math.prod(shape)].reshape(shape)
            for dtype, first, shape in self.places
        ]
        found: nnx.State = jax.tree.unflatten(self.structure, leaves)
        return found


def pack(tree: T) -> T:
    """The tree with the experts' states in it packed; a state with a trained backbone stays."""

    def packed(x: Any) -> Any:
        return Packed.of(x) if isinstance(x, nnx.State) and _experts_alone(x) else x

    found: T = jax.tree.map(packed, tree, is_leaf=lambda x: isinstance(x, nnx.State))
    return found


def unpack(tree: T) -> T:
    """The tree before `pack`."""
    found: T = jax.tree.map(
        lambda x: x.state() if isinstance(x, Packed) else x,
        tree,
        is_leaf=lambda x: isinstance(x, Packed),
    )
    return found


def _experts_alone(state: nnx.State) -> bool:
    return bool(state) and not {"experts", "backbone"} & state.keys()
