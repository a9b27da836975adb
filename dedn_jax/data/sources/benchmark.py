"""Pictures of the published benchmarks, from the folders that their archives unpack to.

The tree is that of the published code: `<root>/CUB/CUB_200_2011/images/...`,
`<root>/SUN/images/...`, `<root>/AWA2/Animals_with_Attributes2/JPEGImages/...`, the splits in
`<root>/xlsa17/data/<NAME>/`, and the word vectors in `w2v/` in or beside `<root>`. The published
code has no AWA1, aPY and FLO; theirs is `<root>/AWA1/Animals_with_Attributes/JPEGImages/...`,
`<root>/APY/{attribute_data,ayahoo_test_images,VOCdevkit/VOC2008/JPEGImages}/...` and
`<root>/FLO/jpg/...`, as their archives unpack. Sets of one's own in the same layout have their
pictures anywhere below `<root>/<NAME>/`. Case in `<NAME>` does not matter.
"""

from __future__ import annotations

import os
from pathlib import Path

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import Picture, PictureSet, as_set_name
from dedn_jax.data.published import PUBLISHED, own_spelling
from dedn_jax.data.sources.benchmark_words import attribute_words_of
from dedn_jax.data.sources.object_boxes import object_pictures
from dedn_jax.data.sources.own_pictures import locate_pictures
from dedn_jax.data.sources.xlsa17 import entry_named, read_xlsa17
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path

_SHOWN = 3  # how many missing pictures a message names


def read_benchmark(
    name: str, root: Path, *, word_vectors: Path | None = None, xlsa17: Path | None = None
) -> PictureSet:
    """Reads the splits, attributes and picture list of a benchmark data set.

    Image `i` is entry `i` of `res101.mat`, from 0; aPY's are cut to their object's box. `att` is
    kept as published: AWA2's holds small negative values, which a run clips where its configuration
    says so.

    Args:
      name: CUB, SUN, AWA2, AWA1, APY, FLO, or that of one's own set.
      root: the folder that holds `<name>`.
      word_vectors: a file for `read_word_vectors`; None for `w2v/<name>_attribute.pkl` in `root` or
        beside it; FLO, whose class embeddings are of sentences, needs none, nor do sets of one's
        own (see `attribute_words_of`).
      xlsa17: the folder of the splits; None for `<root>/xlsa17/data`.

    Raises:
      InputError: as `read_xlsa17`, `read_word_vectors` and `object_pictures`; `res101.mat` is
        missing; pictures are missing; the attribute names are not as many as the attributes.
    """
    root = local_path(root)
    name = own_spelling(name)
    splits = local_path(xlsa17) if xlsa17 else root / "xlsa17" / "data"
    data = read_xlsa17(splits, name)
    if data.image_files is None or data.labels is None:
        raise InputError(
            f"{data.source}/res101.mat: no such file, and it lists the pictures; put it next to "
            "att_splits.mat"
        )
    folder = entry_named(root, name)
    words = attribute_words_of(name, root, folder, data, word_vectors)
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
    files, origins = data.image_files, words.origins
    if name not in PUBLISHED:
        files = locate_pictures(files, folder)
    _check_present(folder, files, name)
    if name == "APY":
        pictures, boxes = object_pictures(folder, data)
        origins = (*origins, boxes)
    else:
        pictures = [Picture(file, folder / file) for file in files]
    return PictureSet(as_set_name(name), annotations, pictures, origins)


def _check_present(folder: Path, files: tuple[str, ...], name: str) -> None:
    """Raises one InputError for all missing pictures."""
    missing = [file for file in files if not os.path.isfile(folder / file)]
    if not missing:
        return
    first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    found = f"{folder}: {len(missing)} of {len(files)} pictures are missing ({first}); "
    if name not in PUBLISHED:
        raise InputError(f"{found}put them there, or leave them out of res101.mat")
    roots = " or ".join(f"{top}/" for top in PUBLISHED[name].picture_folders.values())
    raise InputError(f"{found}unpack the archive of pictures so that {roots} is in that folder")
