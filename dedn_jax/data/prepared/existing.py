"""Whether a folder holds a build already, and of the same set."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import PictureSet
from dedn_jax.data.prepared.reader import PICTURES_FILE, SPLITS, open_prepared
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.progress import progress


def pictures_digest(hashes: dict[int, bytes]) -> str:
    """A hash of the pictures' contents and order."""
    h = hashlib.sha256()
    for image in sorted(hashes):
        h.update(image.to_bytes(8, "little"))
        h.update(hashes[image])
    return h.hexdigest()


def pictures_listing(picture_set: PictureSet) -> str:
    """A hash of the pictures' names and sizes, for which none has to be read."""
    rows = [(p.name, p.size(), p.upright) for p in picture_set.pictures]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def is_built(target: Path, picture_set: PictureSet) -> bool:
    """Whether `target` holds this set; raises InputError where it holds anything else."""
    if not os.path.lexists(target):
        return False
    again = "build with --overwrite, or choose another folder"
    try:
        there = open_prepared(target)
    except InputError as error:
        raise InputError(f"{error}; or {again}") from error
    if not _same_annotations(there.annotations, picture_set.annotations):
        what = "splits, classes or attributes differ"
    elif not _same_pictures(target, there.digest, picture_set):
        what = "pictures differ"
    else:
        return True
    raise InputError(f"{target}: holds another build of {picture_set.name}: {what}; {again}")


def _same_annotations(a: Annotations, b: Annotations) -> bool:
    names = [(x.class_names, x.attribute_names, x.groups and x.groups.names) for x in (a, b)]
    return names[0] == names[1] and a.annotations_fingerprint() == b.annotations_fingerprint()


def _same_pictures(target: Path, digest: str, picture_set: PictureSet) -> bool:
    if read_json(target / PICTURES_FILE).get("listing") != pictures_listing(picture_set):
        return False
    # Names and sizes are not enough, nor are time stamps: a picture may have been replaced by one
    # with an older time.
    splits = (getattr(picture_set.annotations, name).tolist() for name in SPLITS)
    images = [i for split in splits for i in split]
    hashes = {}
    with progress(len(images), "comparing pictures", "picture", delay=2) as bar:
        for i in images:
            hashes[i] = hashlib.sha256(picture_set.pictures[i].read()).digest()
            bar.update()
    return pictures_digest(hashes) == digest


def check_replaceable(target: Path) -> None:
    """Refuses to replace a folder that no build wrote."""
    if os.path.lexists(target) and not (
        target.is_dir() and not target.is_symlink() and (target / "dataset_info.json").exists()
    ):
        raise InputError(f"{target}: not a folder that `dedn data build` wrote; move it away")
