"""The programs of a training, jitted, with arguments that have shapes and no values."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import ShapeDtypeStruct
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from dedn_jax.data.pipeline import Batch
from dedn_jax.model.attention import BranchRows, dual_attention
from dedn_jax.model.dual_attention import BRANCHES
from dedn_jax.model.experts import EXPERTS
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.kernels import Kernel
from dedn_jax.model.picture_model import backbone_maps
from dedn_jax.parallel.mesh import REPLICATED, SHARDED, STATE, Layout
from dedn_jax.parallel.packing import pack
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, indexed
from dedn_jax.parallel.resident.rule import Residency
from dedn_jax.plan.count import Flops, count_flops
from dedn_jax.plan.sizes import Sizes
from dedn_jax.training.network import Network, build_network, init_backbone
from dedn_jax.training.objective import ClassSpace, Objective
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import ModelState, TrainState, init_state, make_train_step


class Program(NamedTuple):
    """A jitted function with its abstract arguments.

    Attributes:
      jitted: from `jax.jit`.
      arguments: pytrees of `ShapeDtypeStruct`.
      specs: how each argument is sharded, see `Layout.specs`.
    """

    jitted: Any
    arguments: tuple[Any, ...]
    specs: tuple[Any, ...]

    def lower(self, layout: Layout) -> Any:
        """Lowered for the devices of `layout`."""

        def abstract(x: Any, spec: PartitionSpec) -> ShapeDtypeStruct:
            return ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(layout.mesh, spec))

        def placed(tree: Any, spec: Any) -> Any:
            return jax.tree.map(abstract, tree, jax.tree.broadcast(layout.specs(tree, spec), tree))

        return self.jitted.lower(*map(placed, self.arguments, self.specs))

    def flops(self) -> Flops:
        """Of one device where the function runs under `shard_map`, else of all together."""
        return count_flops(self.jitted.trace(*self.arguments).jaxpr)


def abstract_features(
    sizes: Sizes, residency: Residency, layout: Layout
) -> ResidentFeatures | None:
    """All feature maps on the devices of `layout`; None where they are streamed."""
    if residency == "never":
        return None
    return ResidentFeatures.abstract(
        sizes.stored,
        (sizes.channels, sizes.regions),
        sizes.dtype,
        layout,
        shard=residency == "sharded",
    )


def train_program(
    config: ConfigDict,
    sizes: Sizes,
    images: int,
    layout: Layout,
    kernel: Kernel = "cpu",
    features: ResidentFeatures | None = None,
) -> Program:
    """One step of `dedn train`.

    Args:
      config: the recipe.
      sizes: of the data.
      images: of the batch, padding included.
      layout: of the devices.
      kernel: of attention pooling.
      features: where the step looks its batch up, by indices that it is given; None: the batch is
        an argument.
    """
    network = abstract_network(config, sizes, kernel)
    optimizer = make_optimizer(config, sizes.images / sizes.batch)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), network.params)
    if layout.packs_state:
        state = jax.eval_shape(pack, state)
    if sizes.picture:
        inputs = _abstract((images, sizes.picture, sizes.picture, 3), jnp.uint8)
    elif features is None:
        inputs = _abstract((images, sizes.channels, sizes.regions), sizes.dtype)
    else:
        inputs = _abstract((images,), jnp.int32)
    padded = images != sizes.batch
    batch = Batch(
        inputs,
        _abstract((images,), jnp.int32),
        _abstract((images,), jnp.float32) if padded else None,
    )
    classes = ClassSpace(
        _abstract((sizes.classes, sizes.attributes), jnp.float32),
        _abstract((sizes.classes,), jnp.bool),
    )
    objective = Objective.from_config(config)
    # A teacher is taken to have the model of this config.
    taught = bool(config.teacher.workdir)
    teacher = ModelState(network.params, network.frozen, classes) if taught else None
    theirs = network.definition if taught else None
    step = make_train_step(
        network.definition, objective, optimizer, layout.axes, theirs, sizes.batch
    )

    def run(state: TrainState, batch: Any, features: Any, *constants: Any) -> Any:
        return step(state, batch._replace(inputs=indexed(features, batch.inputs)), *constants)

    arguments = (state, batch, features, classes, network.frozen, teacher)
    specs = (STATE, SHARDED, features_spec(features), REPLICATED, REPLICATED, REPLICATED)
    program = layout.compile(run, specs, (STATE, REPLICATED), donate=(0,))
    return Program(program, arguments, specs)


def attention_program(config: ConfigDict, sizes: Sizes, images: int, kernel: Kernel) -> Program:
    """Attention pooling of both experts, with the gradient of its rows, on one device.

    Args:
      config: the recipe.
      sizes: of the data.
      images: of the batch.
      kernel: of attention pooling.
    """
    count = len(EXPERTS[config.model.experts]) * sizes.attributes
    lengths = {"region": sizes.channels, "channel": sizes.regions}
    rows = {
        branch: BranchRows(*(_abstract((count, lengths[branch]), jnp.float32) for _ in range(2)))
        for branch in BRANCHES[config.model.branches]
    }
    maps = _abstract((images, sizes.channels, sizes.regions), sizes.dtype)
    cotangents = [_abstract((images, count), jnp.float32) for _ in rows]

    def pool(rows: dict[str, BranchRows], maps: jax.Array) -> list[jax.Array]:
        pooled = dual_attention(rows.get("region"), rows.get("channel"), maps, kernel)
        return [p for p in pooled if p is not None]

    def run(rows: dict[str, BranchRows], maps: jax.Array, cotangents: list[jax.Array]) -> Any:
        pooled, pull = jax.vjp(lambda r: pool(r, maps), rows)
        return pooled, pull(cotangents)

    return Program(jax.jit(run), (rows, maps, cotangents), (REPLICATED,) * 3)


def extract_program(config: ConfigDict, picture: int, images: int) -> Program:
    """The backbone's forward pass, as `dedn features extract` runs it.

    Args:
      config: whose backbone.
      picture: side of the pictures, pixels.
      images: of a batch.
    """
    definition, values = nnx.split(nnx.eval_shape(lambda: init_backbone(config)))
    pictures = _abstract((images, picture, picture, 3), jnp.uint8)

    def compute(values: nnx.State, pictures: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), pictures)

    return Program(jax.jit(compute), (values, pictures), (REPLICATED, SHARDED))


def abstract_network(config: ConfigDict, sizes: Sizes, kernel: Kernel) -> Network:
    """The network of that config and those sizes, its values `ShapeDtypeStruct`s."""
    groups = AttributeGroups(tuple(f"group {i}" for i in range(len(sizes.groups))), sizes.groups)

    def build() -> Network:
        return build_network(
            config,
            np.ones((sizes.attributes, sizes.word_dim), np.float32),
            groups,
            channels=sizes.channels,
            regions=sizes.regions,
            kernel=kernel,
            backbone=init_backbone(config) if sizes.picture else None,
        )

    return jax.eval_shape(build)


def _abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    """A `ShapeDtypeStruct`, untyped: it stands in for an array."""
    return ShapeDtypeStruct(shape, dtype)
