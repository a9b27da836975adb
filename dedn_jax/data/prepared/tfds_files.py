"""What tfds keeps beside the records of a prepared set: `features.json`, `dataset_info.json`.

tfds itself would import every Python class that `features.json` names, and take file names from a
template in `dataset_info.json`. Both files may come from other people, so neither is shown to it:
the features of a set are always those below, and its files have the names that builds give them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.json_values import TEXT, Kind, listed, one_of, record

_FEATURES = "features.json"
_INFO = "dataset_info.json"
_AGAIN = "build the set again with `dedn data build`"
_CLASSES = {
    "image": "image_feature.Image",
    "label": "class_label_feature.ClassLabel",
    "index": "tensor_feature.Tensor",
    "file_name": "text_feature.Text",
}


def _class(name: str) -> dict[str, Kind]:
    return {"pythonClassName": one_of(f"tensorflow_datasets.core.features.{name}")}


_FEATURES_KIND = record(
    {
        **_class("features_dict.FeaturesDict"),
        "featuresDict": record(
            {
                "features": dataclasses.replace(
                    record({name: record(_class(c)) for name, c in _CLASSES.items()}),
                    expected=f"an object of {', '.join(_CLASSES)}",
                    fits=lambda found: isinstance(found, dict) and set(found) <= set(_CLASSES),
                )
            }
        ),
    }
)
# Whole numbers of 64 bits are text in the JSON of protocol buffers.
_COUNT = Kind(
    "a whole number from 1, as text",
    lambda found: (
        isinstance(found, str)
        and found.isascii()
        and found.isdigit()
        and len(found) < 10
        and int(found) > 0
    ),
)
_INFO_KIND = record({"splits": listed(record({"name": TEXT, "shardLengths": listed(_COUNT)}))})


class Shard(NamedTuple):
    """One record file."""

    file: str
    records: int


def picture_features(labels: Sequence[str] | int) -> Any:
    """The features of every prepared set, as a `tfds.features.FeaturesDict`.

    Args:
      labels: names of the classes, or how many there are.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    names = {"num_classes": labels} if isinstance(labels, int) else {"names": list(labels)}
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(**names),
            "index": np.int64,
            "file_name": tfds.features.Text(),
        }
    )


def read_shards(folder: Path, name: str) -> dict[str, list[Shard]]:
    """The record files of every split, in order.

    Args:
      folder: of a version of a prepared set.
      name: of the set.

    Raises:
      InputError: one of the two files is missing, damaged or not as a build writes it.
    """
    read_json(folder / _FEATURES, _FEATURES_KIND, _AGAIN)
    splits: dict[str, list[Shard]] = {}
    for split in read_json(folder / _INFO, _INFO_KIND, _AGAIN)["splits"]:
        lengths = [int(count) for count in split["shardLengths"]]
        if split["name"] in splits:
            raise InputError(f"{folder / _INFO}: two splits {split['name'][:64]!r}; {_AGAIN}")
        splits[split["name"]] = [
            Shard(
                f"{folder}/{name}-{split['name']}.array_record-{i:05d}-of-{len(lengths):05d}", count
            )
            for i, count in enumerate(lengths)
        ]
    return splits
