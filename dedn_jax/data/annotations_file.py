"""Annotations on disk: one `.npz` of plain arrays, read without unpickling."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import advice_on_unreadable
from dedn_jax.files import atomic_file
from dedn_jax.json_values import Kind, listed, optional, parse_json, record, whole
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.numpy_files import read_npz

ANNOTATIONS_FILE = "annotations.npz"
MAX_BYTES = 2**29  # 20,000 classes by 3,000 attributes are 240 MB
_REQUIRED = ("labels", "class_embeddings", "word_vectors", "trainval", "test_seen", "test_unseen")
_OPTIONAL = ("validation_classes", "unpictured_classes")
_DTYPES = {"labels": np.int32, "class_embeddings": np.float32, "word_vectors": np.float32}
# They are printed on terminals and in reports.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but white space
_NAME = Kind(
    "text of at most 1000 characters, none of them control characters",
    lambda found: isinstance(found, str) and len(found) <= 1000 and not _CONTROL.search(found),
)
_GROUP = Kind(
    "a name and the numbers of its attributes",
    lambda found: isinstance(found, list) and len(found) == 2,
    lambda found: iter([("[0]", found[0], _NAME), ("[1]", found[1], listed(whole(0)))]),
)
_TEXT = record(
    {
        "class_names": listed(_NAME),
        "attribute_names": listed(_NAME),
        "groups": optional(listed(_GROUP)),
    }
)


def save_annotations(directory: Path, annotations: Annotations) -> None:
    """Writes `annotations.npz` into `directory`, atomically; equal annotations give equal bytes.

    `source` is not saved: it is a path on the machine that read them.
    """
    arrays = {name: getattr(annotations, name) for name in _REQUIRED}
    for name in _OPTIONAL:
        if (value := getattr(annotations, name)) is not None:
            arrays[name] = value
    groups = annotations.groups
    text = {
        "class_names": annotations.class_names,
        "attribute_names": annotations.attribute_names,
        "groups": None if groups is None else list(zip(groups.names, groups.members, strict=True)),
    }
    arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    with atomic_file(directory / ANNOTATIONS_FILE) as file:
        np.savez_compressed(file, **arrays)


def load_annotations(directory: Path, source: str = "") -> Annotations:
    """Reads and checks what `save_annotations` wrote.

    Args:
      directory: where the file is.
      source: `Annotations.source` of the result; "": the directory.

    Raises:
      InputError: the file is missing, damaged, or its fields do not fit together.
    """
    path = directory / ANNOTATIONS_FILE
    try:
        fields = _read(path)
        text = parse_json(fields.pop("text").tobytes())
        _TEXT.check(text)
        groups = None
        if text["groups"] is not None:
            groups = AttributeGroups(
                tuple(name for name, _ in text["groups"]),
                tuple(tuple(members) for _, members in text["groups"]),
            )
        return Annotations(
            source=source or str(directory),
            class_names=tuple(text["class_names"]),
            attribute_names=tuple(text["attribute_names"]),
            groups=groups,
            **fields,
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; {directory} was not written by `dedn data build` or `dedn "
            "features`"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); "
            f"{advice_on_unreadable(path, error)}"
        ) from error
    except (KeyError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path}: is damaged ({reason}); make it again") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path, MAX_BYTES, (*_REQUIRED, *_OPTIONAL, "text"))
    names = [*_REQUIRED, *(n for n in _OPTIONAL if n in arrays), "text"]
    fields = {name: arrays[name] for name in names}
    for name, array in fields.items():
        expected = np.uint8 if name == "text" else _DTYPES.get(name, np.int64)
        if array.dtype != expected:
            raise ValueError(f"{name} has type {array.dtype}, expected {np.dtype(expected)}")
    return fields
