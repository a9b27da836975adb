"""Runs on the pictures of `tests.made_up`, from images and from a store of their features."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.inference.extract import extract_features
from dedn_jax.inference.run import Run, train
from tests.made_up import backbone_weights, prepared_folder

SIDE = 64


class PictureRuns:
    """Finished runs on the same pictures, of an epoch each; trained when they are first asked for.

    Attributes:
      folder: the pictures, in a folder for each class.
      weights: of the frozen backbone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        prepared = prepared_folder(root)
        self.folder = root / "mine" / "pictures"
        self.weights = backbone_weights(root / "resnet18.safetensors")
        self._common = {
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

    def _frozen(self, **fields: object) -> ConfigDict:
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        backbone = {"backbone.name": "resnet18", "backbone.weights": self.weights}
        return load_config("base", self._common | backbone | fields)

    @cached_property
    def images(self) -> Run:
        """From pictures, through a frozen backbone."""
        return train(self._frozen(data__source="images"), self._root / "images")

    @cached_property
    def store(self) -> Run:
        """From a store of float32 features of the same backbone."""
        config = self._frozen(data__source="images")
        store = extract_features(config, self._root / "features", dtype="float32", normalized=True)
        return train(self._frozen(data__features=store), self._root / "store")

    @cached_property
    def small(self) -> Run:
        """From pictures, through a small backbone that was trained; calibrated."""
        return self._small("small")

    @cached_property
    def part(self) -> Run:
        """As `small`, the region branch of the fine expert alone."""
        return self._small("part", {"model.experts": "fine", "model.branches": "region"})

    def _small(self, name: str, fields: dict[str, object] | None = None) -> Run:
        backbone = {"backbone.name": "small", "backbone.trained": True}
        others = {"data.source": "images", "selection.protocol": "validation"}
        config = load_config("base", self._common | backbone | others | (fields or {}))
        return train(config, self._root / name)
