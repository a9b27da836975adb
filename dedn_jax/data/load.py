"""From a config to a checked data set."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.buckets.inputs import input_path
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.dataset import GZSLDataset, with_inputs
from dedn_jax.data.features.hdf5 import IMPORT_HINT, read_features
from dedn_jax.data.features.maps import FeatureMaps, UnreadFeatures
from dedn_jax.data.features.published_hdf5 import (
    open_published,
    published_annotations,
    published_feature_map,
)
from dedn_jax.data.features.store.reader import (
    Store,
    check_store,
    open_store,
)
from dedn_jax.data.features.store.verification import compare_without_reading
from dedn_jax.data.pictures.pictures import Pictures, PictureTransform
from dedn_jax.data.prepared.reader import Prepared, open_prepared
from dedn_jax.data.sources.class_embeddings import annotations_from_file
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.demo.cache import demo_cache_dir
from dedn_jax.errors import InputError
from dedn_jax.files import named_file_sha256
from dedn_jax.model.backbones import find_weights


def load_dataset(config: ConfigDict, *, sizes_only: bool = False) -> GZSLDataset:
    """Loads the data set that `config.data` names, as feature maps or as pictures.

    Args:
      config: the resolved config.
      sizes_only: do not read the feature maps; only the sizes of `inputs` are needed.

    Examples:
      >>> from dedn_jax.config import load_config
      >>> dataset = load_dataset(load_config("base", {"data.path": "features.hdf5"}))
      >>> len(dataset.trainval), dataset.num_attributes, dataset.inputs.channels
      (48, 6, 8)

    Raises:
      InputError: no path, or a file that cannot be used.
    """
    data = config.data
    if data.class_embeddings and data.clip_negative_embeddings:
        raise InputError(
            "config.data.clip_negative_embeddings=True, expected false with "
            "config.data.class_embeddings: it is for attributes, whose values are at least 0"
        )
    if data.format == "published_hdf5":
        if not data.path:
            raise InputError(
                "config.data.path is empty; set --config.data.path to the HDF5 file of feature "
                "maps, or use --config.data.format=prepared or demo"
            )
        if data.memory_map:
            raise InputError(
                f"{data.path}: --config.data.memory_map=true does not apply to published HDF5 "
                f"files; set it to false, or {IMPORT_HINT}"
            )
        return read_published_hdf5(
            data.path,
            dtype=data.dtype,
            sizes_only=sizes_only,
            clip_negative_embeddings=data.clip_negative_embeddings,
            class_embeddings=data.class_embeddings,
            word_vectors=data.word_vectors,
        )
    if data.format == "store":
        if not data.path:
            raise InputError(
                "config.data.path is empty; set --config.data.path to the store that `dedn "
                "features` wrote"
            )
        store = open_store(data.path)
        return with_inputs(
            _with_overrides(store.annotations, data), _features(store, data, sizes_only)
        )
    prepared = load_prepared(config)
    annotations = _with_overrides(prepared.annotations, data)
    if data.source == "images":
        return with_inputs(annotations, open_pictures(prepared, config))
    store = _matching_store(config, prepared)
    return with_inputs(annotations, _features(store, data, sizes_only))


def read_published_hdf5(
    path: str | os.PathLike[str],
    *,
    dtype: Any = "float32",
    sizes_only: bool = False,
    clip_negative_embeddings: bool = False,
    class_embeddings: str | os.PathLike[str] = "",
    word_vectors: str | os.PathLike[str] = "",
) -> GZSLDataset:
    """Reads and checks a data set in the layout of the published code.

    All other fields are checked before the features are read. Those are normalised and converted
    chunk by chunk, so that host memory holds one copy of them and a chunk of the file.

    Args:
      path: the file.
      dtype: of the features: float32, bfloat16 or float16.
      sizes_only: do not read the features; only the sizes of `inputs` are known.
      clip_negative_embeddings: set negative entries of `att` to 0, as the public code's AWA2
        loader does.
      class_embeddings: a file to read them from (see `read_class_embeddings`) in place of `att`.
      word_vectors: a file to read the word vectors from (see `read_word_vectors`) in place of
        `w2v_att`.

    Raises:
      InputError: the file or one of its fields cannot be used; one line that says which and why.
    """
    path = input_path(path)
    where = str(path)
    with open_published(path) as file:
        annotations = published_annotations(
            file,
            where,
            clip_negative_embeddings=clip_negative_embeddings,
            class_embeddings=class_embeddings,
            word_vectors=word_vectors,
        )
        feature_map = published_feature_map(file, where, len(annotations.labels))
        features: FeatureMaps
        if sizes_only:
            images, channels, height, width = feature_map.shape
            features = UnreadFeatures(images, channels, height * width, dtype)
        else:
            features = read_features(feature_map, where, np.dtype(dtype))
    return with_inputs(annotations, features)


def load_prepared(config: ConfigDict) -> Prepared:
    """The pictures and annotations that `config.data` names; the demo's are drawn if necessary.

    Raises:
      InputError: no path, or a folder that cannot be used.
    """
    data = config.data
    if data.format == "demo":
        # Imported here: only the demo needs the drawing code and tfds.
        from dedn_jax.data.sources.demo import prepare_demo

        return open_prepared(prepare_demo(demo_cache_dir(data.path)))
    if not data.path:
        raise InputError(
            "config.data.path is empty; set --config.data.path to the folder that `dedn data "
            "build` wrote"
        )
    return open_prepared(data.path)


def open_pictures(prepared: Prepared, config: ConfigDict) -> Pictures:
    """The pictures of a prepared set, decoded and resized as `config.picture` says."""
    return Pictures(prepared.pictures, PictureTransform.from_config(config), prepared.digest)


def _matching_store(config: ConfigDict, prepared: Prepared) -> Store:
    """The store of `config.data.features`, made from these pictures by this backbone."""
    if not config.data.features:
        raise InputError(
            "config.data.features is empty; set --config.data.features to the store that `dedn "
            "features extract` wrote, or train from pictures: --config.data.source=images"
        )
    store = open_store(config.data.features)
    choice = config.backbone
    backbone = {"name": choice.name, "class_token": choice.class_token}
    if choice.weights:
        file = find_weights(choice.name, choice.weights)
        backbone["sha256"] = named_file_sha256(file, "config.backbone.weights")
    check_store(
        store,
        pictures=prepared.digest,
        transform=PictureTransform.from_config(config).fixed(),
        backbone=backbone,
    )
    return store


def _features(store: Store, data: ConfigDict, sizes_only: bool) -> FeatureMaps:
    compared = data.memory_map and not sizes_only
    on_disk = store.features(np.dtype(data.dtype), compared=compared)
    if compared:
        compare_without_reading(store)
    keep_on_disk = data.memory_map or sizes_only
    features: FeatureMaps = on_disk if keep_on_disk else on_disk.load_into_memory()
    manifest = store.manifest
    features.origin = {
        "pictures": manifest.pictures,
        "transform": manifest.transform,
        "backbone": manifest.backbone,
    }
    return features


def _with_overrides(annotations: Annotations, data: ConfigDict) -> Annotations:
    """Annotations with class embeddings, word vectors and the clipping that `config.data` names."""
    changes: dict[str, Any] = {}
    if data.class_embeddings:
        changes = annotations_from_file(
            data.class_embeddings, annotations.class_names, data.word_vectors
        )
    elif data.word_vectors:
        changes["word_vectors"] = read_word_vectors(
            data.word_vectors, annotations.num_attributes, annotations.attribute_names
        )
    if data.clip_negative_embeddings:
        changes["class_embeddings"] = np.maximum(annotations.class_embeddings, 0)
    return dataclasses.replace(annotations, **changes)
