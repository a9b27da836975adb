"""The validation classes that the file of a data set names, in any field that is in circulation.

xlsa17's `att_splits.mat` has `train_loc` and `val_loc` over all images of seen classes. The scripts
that feature files are extracted with (DAZLE's and those after it) call the latter `val_unseen_loc`,
as do sets with validation images of the other classes too, `val_seen_loc`; splits in folds
end in the fold's number. The archive of xlsa17 has the names of the same classes in
`valclasses1.txt`, also where the fields are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Int64

from dedn_jax.progress import note

# A field that holds the images of validation classes, and the fields of the other classes' images.
_FIELDS = {
    "val_loc": ("train_loc",),
    "val_unseen_loc": ("train_loc", "val_seen_loc"),
    "val_unseen_loc1": ("train_gzsl_loc1", "val_seen_loc1"),
}
VALIDATION_FIELDS = tuple(dict.fromkeys(f for k, others in _FIELDS.items() for f in (k, *others)))


def classes_of_fields(
    fields: Mapping[str, Int[np.ndarray, " images"]],
    labels: Int[np.ndarray, " images"],
    trainval: Int[np.ndarray, " trainval"],
    where: str,
) -> Int64[np.ndarray, " validation_classes"] | None:
    """The validation classes of the first field that names some; only classes are taken from it.

    In some copies of the files the fields mean something else, such as images of classes that are
    trained on too. That is said, and they are left alone.

    Args:
      fields: those of `VALIDATION_FIELDS` that there are, as image indices from 0 or anything else.
      labels: class ids.
      trainval: image indices.
      where: the file, for what is said.

    Returns:
      Ascending int64 class ids, or None.
    """
    seen = np.unique(labels[trainval])
    there = [name for name in _FIELDS if len(fields.get(name, ()))]
    for name in there:
        others = [fields[other] for other in _FIELDS[name] if len(fields.get(other, ()))]
        found = _classes(fields[name], others, labels, trainval, seen)
        if found is not None:
            return found
    if there:
        note(
            f"{where}: {', '.join(there)} names no validation classes (expected images of some "
            "seen classes that no other field trains on); config.seed draws them"
        )
    return None


def classes_of_names(
    names: Sequence[str], class_names: Sequence[str], seen: Int[np.ndarray, " seen"], where: str
) -> Int64[np.ndarray, " validation_classes"] | None:
    """The ids of classes that a file lists by name; None, which is said, if they cannot be used.

    Args:
      names: one a class.
      class_names: of all classes, in the order of their ids.
      seen: ids of the seen ones.
      where: the file, for what is said.
    """
    ids = {name: k for k, name in enumerate(class_names)}
    known = {ids.get(name, -1) for name in names}
    if known and known < set(seen.tolist()):
        return np.array(sorted(known), np.int64)
    strange = [name for name in names if ids.get(name, -1) not in seen]
    found = f"such as {strange[0][:64]!r}, which is no seen class" if strange else "none or all"
    note(f"{where}: lists no validation classes ({found}); config.seed draws them")
    return None


def _classes(
    held: np.ndarray,
    others: list[np.ndarray],
    labels: np.ndarray,
    trainval: np.ndarray,
    seen: np.ndarray,
) -> np.ndarray | None:
    if any(location.min() < 0 or location.max() >= len(labels) for location in (held, *others)):
        return None
    classes, *trained = (np.unique(labels[location]) for location in (held, *others))
    if not all(np.isin(found, seen).all() for found in (classes, *trained)):
        return None
    if not trained:  # those that the field does not hold all images of are trained on
        rest = np.setdiff1d(trainval, held)
        trained = [np.unique(labels[rest])]
    if any(len(np.intersect1d(classes, found)) for found in trained) or len(classes) == len(seen):
        return None
    return classes.astype(np.int64)
