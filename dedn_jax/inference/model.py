"""A run's model from pictures, with the backbone and transform that its features were made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.data.features.maps import FeatureMaps
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.errors import InputError
from dedn_jax.files import named_file_sha256
from dedn_jax.model.backbones import Backbone, find_weights
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.picture_model import PictureModel
from dedn_jax.training.network import feature_shape, init_backbone, load_backbone
from dedn_jax.training.run import TrainingRun

_MADE_WITH = (
    "--config.backbone.name, --config.backbone.weights, --config.backbone.class_token, "
    "--config.picture.resize and --config.picture.crop"
)


class FromPictures(NamedTuple):
    """A model and what pictures pass through before it.

    Attributes:
      model: called with `[batch, crop, crop, 3]` uint8 pictures.
      transform: how a picture becomes one of those.
      grid: rows and columns of the feature maps' regions.
    """

    model: PictureModel
    transform: PictureTransform
    grid: tuple[int, int]


def from_pictures(run: TrainingRun) -> FromPictures:
    """The model of a finished run, from pictures to attribute scores.

    A run on pictures has it. One on a feature store is given the backbone and the transform that
    the store records, with the weights of `config.backbone.weights`, whose hash must be the
    store's. One on features that do not say how they were made (a published HDF5 file, arrays)
    takes the backbone and size of pictures from its config, which may be overridden for it.

    Raises:
      InputError: the run is not finished, its data set or weights cannot be used, or the backbone
        makes other feature maps than the run was trained on.
    """
    inputs = run.outline.inputs
    if isinstance(inputs, Pictures):
        model = run.model
        assert isinstance(model, PictureModel)
        transform = inputs.transform
        grid = feature_shape(model.backbone, transform.crop).grid
    else:
        config = _config_of(inputs.origin, run)
        transform = PictureTransform.from_config(config)
        grid = _checked_grid(config, inputs)
        experts = run.model
        assert isinstance(experts, DualExpert)
        model = PictureModel(_backbone(config, inputs.origin), experts)
    return FromPictures(model, transform, grid)


def _config_of(origin: Mapping[str, Any], run: TrainingRun) -> ConfigDict:
    """The run's config with the backbone and transform that its features were made with."""
    config = run.config.copy_and_resolve_references()
    backbone, transform = origin.get("backbone"), origin.get("transform")
    try:
        if backbone:
            config.backbone.update(
                name=backbone["name"],
                dtype=backbone["dtype"],
                class_token=backbone.get("class_token", False),
            )
        if transform:
            config.picture.update(resize=transform["resize"], crop=transform["crop"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.outline.source}: its manifest does not say which backbone and transform its "
            f"features were made with ({error!r}); extract them again"
        ) from error
    return config


def _checked_grid(config: ConfigDict, inputs: FeatureMaps) -> tuple[int, int]:
    """Rows and columns of the backbone's feature maps, which must be of the run's shape."""
    backbone = nnx.eval_shape(lambda: init_backbone(config))
    shape = feature_shape(backbone, config.picture.crop)
    if (shape.channels, shape.regions) != (inputs.channels, inputs.regions):
        raise InputError(
            f"config.backbone.name={config.backbone.name}, config.picture.crop="
            f"{config.picture.crop}: feature maps of {shape.channels} channels and "
            f"{shape.regions} regions, but the run was trained on {inputs.channels} channels and "
            f"{inputs.regions} regions; give what its features were made with: {_MADE_WITH}"
        )
    return shape.grid


def _backbone(config: ConfigDict, origin: Mapping[str, Any]) -> Backbone:
    """With the weights of `config.backbone.weights`, those that the features were made with."""
    choice, recorded = config.backbone, origin.get("backbone")
    sha256 = recorded and recorded.get("sha256")
    if not choice.weights:
        which = f"with SHA-256 {sha256}" if sha256 else f"at {config.picture.crop} pixels"
        others = "" if recorded else f"; if that is not so, give {_MADE_WITH}"
        raise InputError(
            f"config.backbone.weights is empty: the run's features are of {choice.name} {which}; "
            f"give the file of its weights with --config.backbone.weights{others}"
        )
    if sha256:
        file = find_weights(choice.name, choice.weights)
        found = named_file_sha256(file, "config.backbone.weights")
        if found != sha256:
            raise InputError(
                f"{file}: has SHA-256 {found}, but the run's features were made by "
                f"{choice.name} with weights of SHA-256 {sha256}; give that file with "
                "--config.backbone.weights"
            )
    return load_backbone(config)[0]
