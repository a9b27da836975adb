"""Pictures of the published benchmarks, from the folders that their archives unpack to.

The tree is that of the published code: `<root>/CUB/CUB_200_2011/images/...`,
`<root>/SUN/images/...`, `<root>/AWA2/Animals_with_Attributes2/JPEGImages/...`, the splits in
`<root>/xlsa17/data/<NAME>/`, and the word vectors in `w2v/` in or beside `<root>`. The published
code has no AWA1, aPY and FLO; theirs is `<root>/AWA1/Animals_with_Attributes/JPEGImages/...`,
`<root>/APY/{attribute_data,ayahoo_test_images,VOCdevkit/VOC2008/JPEGImages}/...` and
`<root>/FLO/jpg/...`, as their archives unpack.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.published import PUBLISHED
from dedn_jax.data.sources.attribute_names import read_attribute_names
from dedn_jax.data.sources.class_embeddings import dimension_names, dimension_vectors
from dedn_jax.data.sources.matfile import read_mat
from dedn_jax.data.sources.object_boxes import object_pictures
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.data.sources.xlsa17 import Xlsa17, read_xlsa17
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
_SHOWN = 3  # how many missing pictures a message names


def read_benchmark(
    name: str, root: Path, *, word_vectors: Path | None = None, xlsa17: Path | None = None
) -> PictureSet:
    """Reads the splits, attributes and picture list of a benchmark data set.

    Image `i` is entry `i` of `res101.mat`, from 0; aPY's are cut to their object's box. `att` is
    kept as published: AWA2's holds small negative values, which a run clips where its configuration
    says so.

    Args:
      name: CUB, SUN, AWA2, AWA1, APY or FLO.
      root: the folder that holds `<name>`.
      word_vectors: a file for `read_word_vectors`; None for `w2v/<name>_attribute.pkl` in `root` or
        beside it, and `dimension_vectors` for FLO, whose class embeddings are of sentences.
      xlsa17: the folder of the splits; None for `<root>/xlsa17/data`.

    Raises:
      InputError: as `read_xlsa17`, `read_word_vectors` and `object_pictures`; `res101.mat` is
        missing; pictures are missing; the attribute names are not as many as the attributes.
    """
    root = local_path(root)
    splits = local_path(xlsa17) if xlsa17 else root / "xlsa17" / "data"
    data = read_xlsa17(splits, name)
    if data.image_files is None or data.labels is None:
        raise InputError(
            f"{splits / name / 'res101.mat'}: no such file, and it lists the pictures; unpack "
            "it from the xlsa17 archive next to att_splits.mat"
        )
    words = _words(name, root, data, word_vectors)
    annotations = Annotations(
        source=data.source,
        labels=data.labels,
        class_embeddings=data.class_embeddings,
        word_vectors=words.vectors,
        trainval=data.trainval,
        test_seen=data.test_seen,
        test_unseen=data.test_unseen,
        class_names=data.class_names,
        attribute_names=words.names,
        validation_classes=data.validation_classes,
    )
    folder = root / name
    _check_present(folder, data.image_files)
    origins = words.origins
    if name == "APY":
        pictures, boxes = object_pictures(folder, data)
        origins = (*origins, boxes)
    else:
        pictures = [Picture(file, folder / file) for file in data.image_files]
    return PictureSet(name.lower(), annotations, pictures, origins)


class _Words(NamedTuple):
    """Word vectors and names of the attributes, and lines that say where they are from."""

    vectors: np.ndarray
    names: tuple[str, ...]
    origins: tuple[str, ...]


def _words(name: str, root: Path, data: Xlsa17, given: Path | None) -> _Words:
    attributes = data.class_embeddings.shape[1]
    if PUBLISHED[name].sentences and given is None:
        return _Words(
            dimension_vectors(data.class_embeddings, data.class_names),
            dimension_names(attributes),
            (f"word vectors: by the values of the {attributes} dimensions, which have no names",),
        )
    path = find_word_vectors(name, root, given)
    vectors = read_word_vectors(path, attributes)
    if PUBLISHED[name].sentences:
        return _Words(vectors, dimension_names(attributes), (f"word vectors: {path}",))
    names, names_from = _attribute_names(name, root / name, attributes)
    return _Words(vectors, names, (f"word vectors: {path}", f"attribute names: {names_from}"))


def find_word_vectors(name: str, root: Path, given: Path | None) -> Path:
    """The file of a benchmark's word vectors; arguments as for `read_benchmark`.

    Raises:
      InputError: there is none.
    """
    root = local_path(root)
    if given is not None:
        given = local_path(given)
        if not given.is_file():
            raise InputError(
                f"{given}: no such file of word vectors; make it with `dedn data wordvectors`, or "
                "pass another as --word-vectors"
            )
        return given
    places = [
        folder / "w2v" / f"{own}_attribute.pkl"
        for own in _WORD_VECTORS.get(name, (name,))
        for folder in (root, root.resolve().parent)
    ]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{places[0]}: no such file, nor {', '.join(map(str, places[1:]))}; copy the published "
        "word vectors there, or make some with `dedn data wordvectors` and pass their file as "
        "--word-vectors"
    )


def _attribute_names(name: str, folder: Path, attributes: int) -> tuple[tuple[str, ...], str]:
    """The names, and a line that says where they are from."""
    path = next((p for f in _ATTRIBUTE_FILES[name] if (p := folder / f).is_file()), None)
    if path is None:
        places = ", ".join(str(folder / file) for file in _ATTRIBUTE_FILES[name])
        return (
            tuple(f"attribute {i}" for i in range(attributes)),
            f"none found, numbered instead; looked for {places}",
        )
    names = _names_in_mat(path) if path.suffix == ".mat" else read_attribute_names(path)
    if len(names) != attributes:
        raise InputError(
            f"{path}: {len(names)} attribute names, expected {attributes} as in att; use the file "
            "of the same archive, or remove it"
        )
    return names, str(path)


def _names_in_mat(path: Path) -> tuple[str, ...]:
    found = read_mat(path, ("attributes",))["attributes"]
    if isinstance(found, np.ndarray):
        raise InputError(f"{path}: attributes holds numbers, expected a cell array of names")
    names = tuple("".join(c for c in text if c.isprintable()).strip() for text in found)
    if len(set(names)) != len(names) or not all(names):
        raise InputError(f"{path}: attributes holds an empty or duplicate name; download it again")
    return names


def _check_present(folder: Path, files: tuple[str, ...]) -> None:
    """Raises one InputError for all missing pictures."""
    missing = [file for file in files if not os.path.isfile(folder / file)]
    if not missing:
        return
    first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    roots = " or ".join(f"{top}/" for top in PUBLISHED[folder.name].picture_folders.values())
    raise InputError(
        f"{folder}: {len(missing)} of {len(files)} pictures are missing ({first}); unpack the "
        f"archive of pictures so that {roots} is in that folder"
    )
