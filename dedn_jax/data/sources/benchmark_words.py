"""Word vectors and names of the attributes of data sets in the layout of xlsa17."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.published import PUBLISHED
from dedn_jax.data.sources.attribute_names import read_attribute_names
from dedn_jax.data.sources.class_embeddings import dimension_names, dimension_vectors
from dedn_jax.data.sources.glove import attribute_words
from dedn_jax.data.sources.hashed_words import hashed_word_vectors
from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.data.sources.xlsa17 import Xlsa17, entry_named
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

# Below `<root>/<NAME>`; the first that is there is read. CUB's archive has the file beside its main
# folder, and some copies in it.
_ATTRIBUTE_FILES = {
    "CUB": (
        "CUB_200_2011/attributes/attributes.txt",
        "attributes.txt",
        "CUB_200_2011/attributes.txt",
    ),
    "SUN": ("SUNAttributeDB/attributes.mat",),
    "AWA2": ("Animals_with_Attributes2/predicates.txt",),
    "AWA1": ("Animals_with_Attributes/predicates.txt",),
    "APY": ("attribute_data/attribute_names.txt",),
}
# AWA1's attributes are those of AWA2.
_WORD_VECTORS = {"AWA1": ("AWA1", "AWA2")}
_OWN_ATTRIBUTE_FILES = ("attributes.txt", "predicates.txt", "attribute_names.txt")
_NONE_FOUND = "none found"


class Words(NamedTuple):
    """Word vectors and names of the attributes, and lines that say where they are from."""

    vectors: np.ndarray
    names: tuple[str, ...]
    origins: tuple[str, ...]


def attribute_words_of(
    name: str, root: Path, folder: Path, data: Xlsa17, given: Path | None
) -> Words:
    """Word vectors and names of a data set's attributes.

    Sets of one's own need no file of word vectors: without one they are hashed from the words of
    the attributes' names, and where these have none either, by their values (`dimension_vectors`).

    Args:
      name: of the data set.
      root: the folder of all.
      folder: of this one.
      data: its splits and attributes.
      given: a file of word vectors.

    Raises:
      InputError: a file is missing, damaged, or has not as many rows or names as attributes.
    """
    attributes = data.class_embeddings.shape[1]
    known = PUBLISHED.get(name)
    sentences = known is not None and known.sentences
    if sentences:
        names, names_from = dimension_names(attributes), ""
    else:
        names, names_from = _attribute_names(name, folder, attributes)
    named = (f"attribute names: {names_from}",) if names_from else ()
    path = _find_word_vectors(name, root, given)
    if path is not None:
        vectors = read_word_vectors(path, attributes, names)
        return Words(vectors, names, (f"word vectors: {path}", *named))
    if known is not None and not sentences:
        raise _no_word_vectors(name, root)
    if sentences or names_from.startswith(_NONE_FOUND):
        origin = f"by the values of the {attributes} dimensions, which have no names"
        vectors = dimension_vectors(data.class_embeddings, data.class_names)
    else:
        origin = f"hashed from the names; no {_places(name, root)[0]}"
        vectors = hashed_word_vectors([attribute_words(n) or [n] for n in names])
    return Words(vectors, names, (f"word vectors: {origin}", *named))


def find_word_vectors(name: str, root: Path, given: Path | None) -> Path:
    """The file of a benchmark's word vectors; arguments as for `read_benchmark`.

    Raises:
      InputError: there is none.
    """
    found = _find_word_vectors(name, root, given)
    if found is None:
        raise _no_word_vectors(name, root)
    return found


def _find_word_vectors(name: str, root: Path, given: Path | None) -> Path | None:
    if given is None:
        return next((place for place in _places(name, root) if place.is_file()), None)
    given = local_path(given)
    if not given.is_file():
        raise InputError(
            f"{given}: no such file of word vectors; make it with `dedn data wordvectors`, or "
            "pass another as --word-vectors"
        )
    return given


def _places(name: str, root: Path) -> list[Path]:
    root = local_path(root)
    return [
        entry_named(folder / "w2v", f"{own}_attribute{suffix}")
        for own in _WORD_VECTORS.get(name, (name,))
        for suffix in (".pkl", ".npy")
        for folder in (root, root.resolve().parent)
    ]


def _no_word_vectors(name: str, root: Path) -> InputError:
    first, *others = _places(name, root)
    return InputError(
        f"{first}: no such file, nor {', '.join(map(str, others))}; copy the published word "
        "vectors there, or make some with `dedn data wordvectors` and pass their file as "
        "--word-vectors"
    )


def _attribute_names(name: str, folder: Path, attributes: int) -> tuple[tuple[str, ...], str]:
    """The names, and a line that says where they are from."""
    files = _ATTRIBUTE_FILES.get(name, _OWN_ATTRIBUTE_FILES)
    path = next((p for f in files if (p := folder / f).is_file()), None)
    if path is None:
        places = ", ".join(str(folder / file) for file in files)
        return (
            tuple(f"attribute {i}" for i in range(attributes)),
            f"{_NONE_FOUND}, numbered instead; looked for {places}",
        )
    names = _names_in_mat(path) if path.suffix == ".mat" else read_attribute_names(path)
    if len(names) != attributes:
        raise InputError(
            f"{path}: {len(names)} attribute names, expected {attributes} as in att; use those of "
            "the same data set, or remove the file"
        )
    return names, str(path)


def _names_in_mat(path: Path) -> tuple[str, ...]:
    found = read_mat(path, ("attributes",))["attributes"]
    if isinstance(found, np.ndarray):
        raise InputError(f"{path}: attributes holds numbers, expected a cell array of names")
    names = tuple("".join(c for c in text if c.isprintable()).strip() for text in found)
    if len(set(names)) != len(names) or not all(names):
        raise InputError(f"{path}: attributes holds an empty or duplicate name; give each its own")
    return names
