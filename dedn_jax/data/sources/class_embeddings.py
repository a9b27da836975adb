"""Class embeddings in a file of their own, such as those of sentences, in place of attributes.

`sent_splits.mat` of the xlsa17 format is an `att_splits.mat` whose `att` holds, for every class, an
embedding of sentences about its pictures (char-CNN-RNN, 1024 dimensions: Reed et al., "Learning
Deep Representations of Fine-Grained Visual Descriptions", CVPR 2016). There is one of CUB, and the
`att_splits.mat` of FLO, which has no attributes, is of this kind as well.

DEDN scores attributes by their word vectors, and a dimension of an embedding has no name. What is
known of it are its values, so these give its vector: see `dimension_vectors`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from dedn_jax.buckets.inputs import input_path
from dedn_jax.data.arrays import finite_matrix
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.errors import InputError
from dedn_jax.numpy_files import read_npy

_MAX_BYTES = 2**30
_FIELD = "config.data.class_embeddings"


def annotations_from_file(
    path: str | os.PathLike[str],
    class_names: tuple[str, ...],
    word_vectors: str | os.PathLike[str] = "",
) -> dict[str, Any]:
    """The fields of `Annotations` that a file of class embeddings decides.

    Args:
      path, class_names: as `read_class_embeddings`.
      word_vectors: a file with one for each dimension; "": `dimension_vectors`.

    Raises:
      InputError: as `read_class_embeddings` and `read_word_vectors`.
    """
    values = read_class_embeddings(path, class_names)
    dimensions = values.shape[1]
    return {
        "class_embeddings": values,
        "word_vectors": (
            read_word_vectors(word_vectors, dimensions)
            if word_vectors
            else dimension_vectors(values, class_names)
        ),
        "attribute_names": dimension_names(dimensions),
        "groups": None,
    }


def read_class_embeddings(
    path: str | os.PathLike[str], class_names: tuple[str, ...]
) -> Float32[np.ndarray, "classes dimensions"]:
    """Reads one embedding for each class.

    Args:
      path: a `.mat` file with `att` `[dimensions, classes]` and, in some, `allclasses_names`, such
        as `sent_splits.mat`; or a `.npy` file of `[classes, dimensions]`.
      class_names: of the data set, in its order, which the file must have as well.

    Returns:
      As stored, not normalised.

    Raises:
      InputError: no such file, neither format, damaged or too large, another number of classes or
        of names, classes in another order, NaN or infinite values.
    """
    path = input_path(path)
    if path.suffix not in (".mat", ".npy"):
        raise InputError(
            f"{path}: unknown kind of file; set {_FIELD} to a .mat file such as sent_splits.mat, "
            "or to a .npy file of [classes, dimensions]"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file of class embeddings; set {_FIELD}")
    values, names = _from_mat(path) if path.suffix == ".mat" else (_from_npy(path), None)
    _check_classes(path, values, names, class_names)
    return np.ascontiguousarray(values)


def dimension_names(dimensions: int) -> tuple[str, ...]:
    """Names for reports: `dimension 0`, `dimension 1`, ..."""
    return tuple(f"dimension {d}" for d in range(dimensions))


def dimension_vectors(
    class_embeddings: Float[np.ndarray, "classes dimensions"], class_names: tuple[str, ...]
) -> Float32[np.ndarray, "dimensions word_dim"]:
    """Word vectors for dimensions without names: how each one's value varies over the classes.

    Every class has a unit vector hashed from its name; a dimension's vector is their sum, weighted
    by the class's value in this dimension less the mean over all classes. Two dimensions that rise
    and fall together over the classes so get vectors that point the same way, as names that share
    words do.

    Raises:
      InputError: as many names as classes are expected.
    """
    values = np.asarray(class_embeddings, np.float64)
    if len(class_names) != len(values):
        raise InputError(
            f"{len(class_names)} class names for embeddings of {len(values)} classes; give one for "
            "each"
        )
    classes = hashed_word_vectors([[name] for name in class_names])
    return ((values - values.mean(axis=0)).T @ classes).astype(np.float32)


def _from_mat(path: Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """`[classes, dimensions]`, and the names of the classes where the file has them."""
    found = read_mat(path, ("att",), ("allclasses_names",))
    att, names = found["att"], found.get("allclasses_names")
    if isinstance(att, list):
        raise InputError(f"{path}: att holds strings, expected numbers [dimensions, classes]")
    return finite_matrix(att, str(path), "att", "[dimensions, classes]").T, (
        tuple(names) if isinstance(names, list) else None
    )


def _from_npy(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: over {_MAX_BYTES // 2**20} MiB; is it the right file?")
        array = read_npy(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(
            f"{path}: no class embeddings as .npy ({error}); save them as float32 with numpy.save"
        ) from error
    return finite_matrix(array, str(path), "class embeddings", "[classes, dimensions]")


def _check_classes(
    path: Path, values: np.ndarray, names: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    """Raises InputError unless there is one embedding for each of the data set's classes."""
    if names is not None and len(names) != len(values):
        raise InputError(
            f"{path}: allclasses_names has {len(names)} names, att has {len(values)} classes; "
            "expected one for each, in the same order"
        )
    if len(values) != len(expected):
        turned = values.shape[1] == len(expected)
        hint = "it looks transposed" if turned else "is it of another data set?"
        raise InputError(
            f"{path}: embeddings of {len(values)} classes, {values.shape[1]} dimensions each, but "
            f"the data set has {len(expected)} classes; {hint}"
        )
    # Only a name of another class is wrong: names may be spelt in other ways, or be numbers.
    rows = {name: k for k, name in enumerate(expected)}
    for k, name in enumerate(names or ()):
        if rows.get(name, k) != k:
            raise InputError(
                f"{path}: class {k + 1} is {name[:64]!r}, which is class {rows[name] + 1} of the "
                "data set; embeddings must be in the order of its classes"
            )
