"""Backbone and transform of pictures as the store was made, where nobody said otherwise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.buckets.inputs import input_path
from dedn_jax.config import apply_overrides, flat_fields
from dedn_jax.data.features.store.manifest import MANIFEST_FILE, read_manifest
from dedn_jax.progress import note

_BACKBONE, _TRANSFORM = ("name", "class_token"), ("resize", "crop")


def with_store_choices(config: ConfigDict, given: Collection[str]) -> ConfigDict:
    """A config whose `backbone` and `picture` are those of the feature store it names.

    Args:
      config: a checked config; changed in place.
      given: names of fields that stay as they are. One that contradicts the store is refused when
        the data set is loaded.

    Raises:
      InputError: the store's manifest is damaged. A store that is not there is no error yet,
        but in a bucket.
    """
    if not config.data.features or config.data.source != "features":
        return config
    # Alone: of a store in a bucket no more is fetched before processes have found each other.
    file = input_path(f"{config.data.features}/{MANIFEST_FILE}")
    if not file.is_file():
        return config
    manifest = read_manifest(file)
    recorded: dict[str, Any] = {}
    if manifest.backbone:
        backbone = {"class_token": False} | manifest.backbone
        recorded |= {f"backbone.{name}": backbone[name] for name in _BACKBONE if name in backbone}
    if transform := manifest.transform:
        recorded |= {f"picture.{name}": transform[name] for name in _TRANSFORM if name in transform}
    now = flat_fields(config.to_dict())
    changed = {k: v for k, v in recorded.items() if k not in given and now[k] != v}
    if not changed:
        return config
    if "backbone.name" in changed and "backbone.weights" not in given:
        changed["backbone.weights"] = ""  # the recipe's are of another backbone
    said = ", ".join(f"{name}={value}" for name, value in changed.items() if value != "")
    note(f"dedn: as {config.data.features} was made: {said}")
    return apply_overrides(config, changed, str(file))
