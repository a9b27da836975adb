"""Builds the network of a config: the experts, and for pictures the backbone before them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config_ranges import distillation_names
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.pictures.pictures import Pictures
from dedn_jax.errors import InputError
from dedn_jax.model.backbones import (
    Backbone,
    WeightsFile,
    find_weights,
    load_weights,
    make_backbone,
)
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.kernels import Kernel, resolve_kernel
from dedn_jax.model.picture_model import PictureModel, picture_maps
from dedn_jax.training.step import NONE_FROZEN

# Fields of a run's fingerprint.
BACKBONE_WEIGHTS = "backbone_weights"
TEACHER = "teacher"  # see `training.teacher`
INIT_FROM = "init_from"  # see `training.init_run`
# Those of them that only training needs.
OTHER_RUNS = (TEACHER, INIT_FROM)
_BACKBONE_STREAM = 1


class FeatureShape(NamedTuple):
    """Of the feature map of a picture.

    Attributes:
      channels: C.
      grid: rows and columns of regions.
      class_token: whether it is one more region, the last.
    """

    channels: int
    grid: tuple[int, int]
    class_token: bool

    @property
    def regions(self) -> int:
        """R, the class token's included."""
        return self.grid[0] * self.grid[1] + self.class_token


class Network(NamedTuple):
    """A model's definition and its initial values.

    Attributes:
      definition: of the module; `nnx.merge(definition, params, frozen)` is callable.
      params: what is trained.
      frozen: what is not: a frozen backbone, a trained one's batch statistics; else empty.
      weights: the file the backbone started from, if any.
    """

    definition: nnx.GraphDef
    params: nnx.State
    frozen: nnx.State
    weights: WeightsFile | None = None

    def fingerprint(self) -> dict[str, object]:
        """The hash of the backbone's weights, for what a run records; JSON-ready."""
        return {} if self.weights is None else {BACKBONE_WEIGHTS: self.weights.sha256}


def make_network(config: ConfigDict, dataset: GZSLDataset, groups: AttributeGroups) -> Network:
    """The network of a config for a data set, with a backbone if its inputs are pictures.

    Raises:
      InputError: the backbone's weights cannot be used.
    """
    inputs = dataset.inputs
    backbone, weights = None, None
    if isinstance(inputs, Pictures):
        backbone, weights = load_backbone(config)
        shape = feature_shape(backbone, inputs.size)
        channels, regions = shape.channels, shape.regions
    else:
        channels, regions = inputs.channels, inputs.regions
    network = build_network(
        config,
        dataset.word_vectors,
        groups,
        channels=channels,
        regions=regions,
        backbone=backbone,
    )
    return network._replace(weights=weights)


def build_network(
    config: ConfigDict,
    word_vectors: np.ndarray,
    groups: AttributeGroups,
    *,
    channels: int,
    regions: int,
    kernel: Kernel | None = None,
    backbone: Backbone | None = None,
) -> Network:
    """The experts with initial values drawn by `config.seed`, behind the backbone if there is one.

    Under `jax.eval_shape` the values are abstract, and nothing is computed.

    Args:
      config: its `model`, `backbone.trained` and `seed` are used.
      word_vectors: `[attributes, word_dim]`.
      groups: the partition of the attributes.
      channels: C of the feature maps.
      regions: R of the feature maps.
      kernel: of attention pooling; None: the config's for the default JAX backend.
      backbone: from pictures to feature maps; None: the inputs are feature maps.
    """
    experts = DualExpert(
        word_vectors,
        groups,
        channels=channels,
        regions=regions,
        rank=config.model.rank,
        rngs=nnx.Rngs(params=config.seed),
        kernel=kernel
        or resolve_kernel(
            config.model.kernel,
            jax.default_backend(),
            (channels, regions),
            config.model.precision,
        ),
        experts=config.model.experts,
        branches=config.model.branches,
        heads="dual_head" in distillation_names(config.loss.distillation.name),
    )
    if backbone is None:
        return Network(*nnx.split(experts), NONE_FROZEN)
    trained = nnx.Param if config.backbone.trained else nnx.All(nnx.Param, _in_experts)
    definition, *states = nnx.split(PictureModel(backbone, experts), trained, ...)
    params, frozen = states
    return Network(definition, params, frozen)


def load_backbone(config: ConfigDict) -> tuple[Backbone, WeightsFile | None]:
    """The backbone of `config.backbone` with its weights, if a file is named.

    Raises:
      InputError: the file cannot be used, or a frozen backbone has none.
    """
    choice = config.backbone
    if not choice.weights and not choice.trained:
        raise InputError(
            "config.backbone.weights is empty: a frozen backbone needs trained weights; set it to "
            f"a .pth, .safetensors or .npz file of {choice.name}, or train the backbone with "
            "--config.backbone.trained=true"
        )
    if not choice.weights:
        return init_backbone(config), None
    # Initial values that the file's replace need not be drawn, which takes seconds of compilation.
    backbone = nnx.eval_shape(lambda: init_backbone(config))
    return backbone, load_weights(backbone, find_weights(choice.name, choice.weights))


def init_backbone(config: ConfigDict) -> Backbone:
    """The backbone of `config.backbone` with initial values drawn by `config.seed`."""
    # A stream of its own: with or without a backbone, a seed gives the experts the same start.
    key = jax.random.fold_in(jax.random.key(config.seed), _BACKBONE_STREAM)
    choice, rngs = config.backbone, nnx.Rngs(params=key)
    return make_backbone(choice.name, choice.dtype, rngs, class_token=choice.class_token)


def feature_shape(backbone: Backbone, size: int, field: str | None = None) -> FeatureShape:
    """The shape of the feature maps of `size` by `size` pictures.

    Args:
      backbone: may be abstract, as `nnx.eval_shape` makes it.
      size: side of the pictures, pixels.
      field: what a message names; None: `config.picture.crop`.

    Raises:
      InputError: the backbone cannot take pictures of that size.
    """
    field = field or "config.picture.crop"
    definition, values = nnx.split(backbone)
    pictures = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    try:
        _, *grid, channels = jax.eval_shape(
            lambda v, x: picture_maps(nnx.merge(definition, v), x), values, pictures
        ).shape
    except ValueError as error:
        raise InputError(f"{field}={size}: the backbone takes no {error}") from error
    rows, columns = grid
    if not rows * columns:
        raise InputError(f"{field}={size}: too small for a single region")
    return FeatureShape(channels, (rows, columns), backbone.class_token)


def experts_of(params: nnx.State) -> nnx.State:
    """The experts' part of a network's parameters."""
    return params.get("experts", params)


def _in_experts(path: tuple[object, ...], _: object) -> bool:
    return path[0] == "experts"
