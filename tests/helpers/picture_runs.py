"""Runs on the pictures of `tests.made_up`, from images and from a store of their features."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.inference.extract import extract_features
from dedn_jax.inference.run import Run, open_run, train
from tests.helpers.shared import one_at_a_time
from tests.helpers.tiny import ONE_NETWORK
from tests.made_up import BACKBONE, backbone_weights, prepared_folder

SIDE = 64


class PictureRuns:
    """Finished runs on the same pictures, trained when they are first asked for.

    Objects of the same root, also in several processes, share them: no test changes them.

    Attributes:
      folder: the pictures, in a folder for each class.
      prepared: the set that is prepared from them.
      weights: of the frozen backbone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "mine" / "pictures"
        self.weights = root / f"{BACKBONE}.safetensors"
        with one_at_a_time(root):
            if not self.weights.exists():  # written last
                prepared_folder(root)
                backbone_weights(self.weights)
        (features,) = (root / "prepared").rglob("features.json")
        self.prepared = features.parent
        self._common = {
            "data.format": "prepared",
            "data.path": self.prepared,
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
        backbone = {"backbone.name": BACKBONE, "backbone.weights": self.weights}
        # So that the steps of several epochs can be compared.
        steps = {"train.epochs": 3, "train.batch_size": 8, "train.log_every": 1}
        return load_config("base", self._common | backbone | steps | fields)

    def _trained(self, name: str, config: Callable[[], ConfigDict]) -> Run:
        folder = self._root / name
        with one_at_a_time(folder):
            if not (folder / "result.json").exists():
                return train(config(), folder)
        return open_run(folder)

    @cached_property
    def images(self) -> Run:
        """From pictures, through a frozen backbone."""
        return self._trained("images", lambda: self._frozen(data__source="images"))

    @cached_property
    def store(self) -> Run:
        """From a store of float32 features of the same backbone."""

        def config() -> ConfigDict:
            images, out = self._frozen(data__source="images"), self._root / "features"
            store = extract_features(images, out, dtype="float32", normalized=True)
            return self._frozen(data__features=store)

        return self._trained("store", config)

    @cached_property
    def tuned(self) -> Run:
        """From augmented pictures, for an epoch in which the same backbone is trained as well."""
        fields = {"backbone__trained": True, "backbone__learning_rate": 1e-4}
        fields |= {"picture__augment": True, "train__epochs": 1} | ONE_NETWORK
        return self._trained("tuned", lambda: self._frozen(data__source="images", **fields))

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
        all_fields = self._common | backbone | others | (fields or {})
        return self._trained(name, lambda: load_config("base", all_fields))
