"""Runs on the pictures of `tests.made_up`, from images and from a store of their features."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dedn_jax.config import load_config
from dedn_jax.inference.extract import extract_features
from dedn_jax.inference.run import Run, train
from tests.made_up import backbone_weights, prepared_folder

SIDE = 64


class PictureRuns(NamedTuple):
    """Finished runs on the same pictures.

    Attributes:
      folder: the pictures, in a folder for each class.
      weights: of the frozen backbone of the next two.
      images: from pictures.
      store: from a store of float32 features.
      small: from pictures, through a small backbone that was trained.
    """

    folder: Path
    weights: Path
    images: Run
    store: Run
    small: Run


def make_picture_runs(root: Path) -> PictureRuns:
    """Trains them, for an epoch each, in folders of `root`."""
    prepared = prepared_folder(root)
    weights = backbone_weights(root / "resnet18.safetensors")
    common = {
        "data.format": "prepared",
        "data.path": prepared,
        "data.groups": "0-2,4;3,5",  # not in the order of the attributes
        "picture.resize": SIDE,
        "picture.crop": SIDE,
        "train.epochs": 1,
        "train.batch_size": 12,
        "evaluate.batch_size": 5,
        "selection.protocol": "last",
    }
    frozen = common | {"backbone.name": "resnet18", "backbone.weights": weights}
    from_images = load_config("base", frozen | {"data.source": "images"})
    store = extract_features(from_images, root / "features", dtype="float32", normalized=True)
    small = common | {
        "data.source": "images",
        "backbone.name": "small",
        "backbone.trained": True,
        "selection.protocol": "validation",
    }
    return PictureRuns(
        root / "mine" / "pictures",
        weights,
        train(from_images, root / "images"),
        train(load_config("base", frozen | {"data.features": store}), root / "store"),
        train(load_config("base", small), root / "small"),
    )
