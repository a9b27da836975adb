"""The programs of a training as JAX traces them, on arrays that have shapes and no values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.pipeline import Batch
from dedn_jax.errors import InputError
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.kernels import Kernel
from dedn_jax.model.picture_model import PictureModel, backbone_maps
from dedn_jax.parallel.axes import ALONE, Axes
from dedn_jax.parallel.mesh import DATA, REPLICATED, SHARDED, Layout
from dedn_jax.parallel.resident.features import ResidentFeatures, features_spec, lookup
from dedn_jax.parallel.resident.rule import Residency
from dedn_jax.plan.shapes import Problem
from dedn_jax.training.objective import ClassSpace, Objective
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import NONE_FROZEN, TrainState, init_state, make_train_step


class Traced(NamedTuple):
    """A program before it is compiled.

    Attributes:
      function: of the arguments.
      arguments: trees of shapes.
      cut: for every argument, whether it is cut along its first axis, or on every chip.
      mapped: whether the function is written for one chip and speaks to the others by itself.
      donated: indices of the arguments that the results take the place of.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cut: tuple[bool, ...]
    mapped: bool
    donated: tuple[int, ...]

    def lower(self, layout: Layout) -> Any:
        """Lowered for the devices of `layout`."""
        placed = tuple(
            jax.tree.map(
                lambda x, s=sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), argument
            )
            for argument, sharding in zip(
                self.arguments,
                (layout.sharded if cut else layout.replicated for cut in self.cut),
                strict=True,
            )
        )
        function, out = self._on(layout), None
        if self.donated and not self.mapped:  # the training's results are on every chip
            out = layout.replicated
        jitted = jax.jit(function, donate_argnums=self.donated, out_shardings=out)
        return jitted.lower(*placed)

    def jaxpr(self, layout: Layout) -> Any:
        """Traced: of one device's part where it is mapped, else of the whole."""
        return jax.jit(self._on(layout)).trace(*self.arguments).jaxpr

    def _on(self, layout: Layout) -> Callable[..., Any]:
        if not self.mapped:
            return self.function
        specs = tuple(SHARDED if cut else REPLICATED for cut in self.cut)
        return layout.map_over_batch(self.function, specs, REPLICATED)


def stored_maps(problem: Problem, kept: Residency, layout: Layout) -> ResidentFeatures | None:
    """The table of all feature maps on the devices of `layout`; None where they are sent."""
    if kept == "never":
        return None
    images = layout.padded_rows(problem.stored) if kept == "sharded" else problem.stored
    shape = problem.channels, problem.regions
    table: ResidentFeatures = ResidentFeatures.abstract(
        images, shape, problem.dtype, DATA if kept == "sharded" else None
    )
    return table


def train_program(
    config: ConfigDict,
    problem: Problem,
    images: int,
    axes: Axes = ALONE,
    kernel: Kernel = "xla",
    table: ResidentFeatures | None = None,
) -> Traced:
    """A step of `dedn train`, which is sent its batch or looks it up.

    Args:
      config: the recipe.
      problem: sizes.
      images: of the batch, filled up.
      axes: that the step runs under; none where XLA is to cut it by itself.
      kernel: of attention pooling.
      table: where the batch is looked up, see `stored_maps`; which images it has is given.
    """
    vectors = np.ones((problem.attributes, problem.word_dim), np.float32)
    groups = AttributeGroups(
        tuple(f"group {i}" for i in range(len(problem.groups))), problem.groups
    )
    experts = functools.partial(
        DualExpert,
        vectors,
        groups,
        channels=problem.channels,
        regions=problem.regions,
        rank=config.model.rank,
        kernel=kernel,
    )
    if problem.picture:
        model = nnx.eval_shape(
            lambda: PictureModel(_backbone(config), experts(rngs=nnx.Rngs(params=0)))
        )
        trained = nnx.Param if config.backbone.trained else nnx.All(nnx.Param, _in_experts)
        definition, params, frozen = nnx.split(model, trained, ...)
        inputs = _like((images, problem.picture, problem.picture, 3), jnp.uint8)
    else:
        definition, params = nnx.split(nnx.eval_shape(lambda: experts(rngs=nnx.Rngs(params=0))))
        frozen = NONE_FROZEN
        shape = (images, problem.channels, problem.regions)
        inputs = _like(shape, problem.dtype) if table is None else _like((images,), jnp.int32)
    optimizer = make_optimizer(config)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
    filled = images != problem.batch
    batch = Batch(
        inputs,
        _like((images,), jnp.int32),
        _like((images,), jnp.float32) if filled else None,
    )
    classes = ClassSpace(
        _like((problem.classes, problem.attributes), jnp.float32),
        _like((problem.classes,), jnp.bool),
    )
    step = make_train_step(definition, Objective.from_config(config), optimizer, axes)

    def run(state: TrainState, batch: Batch, table: Any, classes: Any, frozen: Any) -> Any:
        return step(state, batch._replace(inputs=lookup(table, batch.inputs)), classes, frozen)

    arguments = (state, batch, table, classes, frozen)
    cut = (False, True, features_spec(table) == SHARDED, False, False)
    return Traced(run, arguments, cut, bool(axes.names), (0,))


def extract_program(config: ConfigDict, picture: int, images: int) -> Traced:
    """The backbone's forward pass, as `dedn features extract` runs it.

    Args:
      config: whose backbone.
      picture: side of the pictures, pixels.
      images: of a batch.
    """
    definition, values = nnx.split(nnx.eval_shape(lambda: _backbone(config)))
    pictures = _like((images, picture, picture, 3), jnp.uint8)

    def compute(values: nnx.State, pictures: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), pictures)

    return Traced(compute, (values, pictures), (False, True), False, ())


def map_shape(config: ConfigDict, picture: int) -> tuple[int, int]:
    """Channels and regions of the backbone's feature maps of pictures of that side.

    Raises:
      InputError: the backbone cannot take pictures of that size.
    """
    definition, values = nnx.split(nnx.eval_shape(lambda: _backbone(config)))
    pictures = _like((1, picture, picture, 3), jnp.uint8)
    try:
        _, channels, regions = jax.eval_shape(
            lambda v, x: backbone_maps(nnx.merge(definition, v), x), values, pictures
        ).shape
    except ValueError as error:
        raise InputError(f"--picture={picture}: the backbone takes no {error}") from error
    return channels, regions


def _backbone(config: ConfigDict) -> Any:
    return make_backbone(config.backbone.name, config.backbone.dtype, nnx.Rngs(params=0))


def _like(shape: tuple[int, ...], dtype: Any) -> Any:
    """What stands for an array where only its form is asked for."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _in_experts(path: tuple[object, ...], _: object) -> bool:
    return path[0] == "experts"
