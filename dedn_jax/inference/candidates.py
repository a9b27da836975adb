"""The classes that predictions choose among: a run's, and new ones described by attributes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32

from dedn_jax.data.dataset import trainval_task
from dedn_jax.data.sources.attribute_names import read_attribute_names
from dedn_jax.errors import InputError, check_type
from dedn_jax.inference.classes_file import check_attributes, read_classes
from dedn_jax.model.experts import PerExpert
from dedn_jax.model.norms import MIN_NORM
from dedn_jax.paths import local_path
from dedn_jax.training.objective import normalized_embeddings
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.scores import Branches, CandidateScores

Among = Literal["all", "seen", "unseen"]
AMONG: tuple[Among, ...] = ("all", "seen", "unseen")
# Attributes of a class, in the data set's order or by their names.
Description = Sequence[float] | Mapping[str, float] | Float32[np.ndarray, " attributes"]
# By their names, or a CSV file of them.
NewClasses = Mapping[str, Description] | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Classes to choose among.

    Examples:
      >>> candidates = run.candidates
      >>> griffin = candidates.with_new({"griffin": [1, 0, 0, 1, 0.5, 0]})
      >>> griffin.names[-1], bool(griffin.seen[-1]), griffin.only("unseen").names
      ('griffin', False, ('class 6', 'class 7', 'griffin'))

    Attributes:
      names: of the classes.
      embeddings: `[classes, attributes]`, not normalised, attributes in the data set's order.
      seen: whether the run was trained on images of each class; a new class is unseen.
      attribute_names: in the data set's order.
      clip_negative: whether negative entries of new embeddings become 0, as those of the data set.
    """

    names: tuple[str, ...]
    embeddings: Float32[np.ndarray, "classes attributes"]
    seen: Bool[np.ndarray, " classes"]
    attribute_names: tuple[str, ...]
    clip_negative: bool = False

    @classmethod
    def of_run(cls, run: TrainingRun) -> Candidates:
        """The classes that a run's test sets are scored with, in the order of `Scores.class_ids`.

        Raises:
          InputError: its data set cannot be loaded.
        """
        data = run.outline
        task = trainval_task(data)
        return cls(
            tuple(data.class_names[k] for k in task.class_ids),
            np.asarray(task.class_embeddings, np.float32),
            task.seen,
            data.attribute_names,
            run.config.data.clip_negative_embeddings,
        )

    @cached_property
    def normalized(self) -> Float32[np.ndarray, "classes attributes"]:
        """Z, as class scores use it: rows L2-normalised, attributes in the data set's order."""
        return normalized_embeddings(self.embeddings)

    def only(self, among: Among) -> Candidates:
        """The seen or the unseen classes alone; all: unchanged.

        Raises:
          InputError: there are none, or `among` is something else.
        """
        if among not in AMONG:
            raise InputError(f"among={among!r}, expected one of {', '.join(AMONG)}")
        if among == "all":
            return self
        keep = np.flatnonzero(self.seen == (among == "seen"))
        if not len(keep):
            raise InputError(
                f"among={among}: none of the {len(self.names)} classes is {among}; choose among all"
            )
        return dataclasses.replace(
            self,
            names=tuple(self.names[k] for k in keep),
            embeddings=self.embeddings[keep],
            seen=self.seen[keep],
        )

    def with_attribute_names(self, file: Path) -> Candidates:
        """With attribute names from a text file, for a data set that has none.

        Args:
          file: for `read_attribute_names`, such as CUB's `attributes.txt`.

        Raises:
          InputError: the file cannot be used, or is of another number of attributes.
        """
        names = read_attribute_names(file)
        if len(names) != len(self.attribute_names):
            raise InputError(
                f"{file}: {len(names)} attributes, but the run has {len(self.attribute_names)}; "
                "give the file of its data set"
            )
        return dataclasses.replace(self, attribute_names=names)

    def with_new(self, classes: NewClasses, *, only: bool = False) -> Candidates:
        """With new, unseen classes at the end.

        Args:
          classes: their attributes, on the scale of the data set's embeddings, by their names; or a
            file for `read_classes`.
          only: in place of the run's classes.

        Raises:
          InputError: a file that cannot be used, a name that is no text or that a class has
            already, an attribute that is missing or unknown, or an embedding that cannot be
            normalised.
        """
        expected = "a mapping from names to attributes, or a CSV file"
        check_type("new classes", classes, Mapping | str | os.PathLike, expected)
        if not isinstance(classes, Mapping):
            path = local_path(classes)
            described = read_classes(path, self.attribute_names)
            try:
                return self.with_new(described, only=only)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        if not classes:
            raise InputError("no new class; describe at least one by its attributes")
        for name in classes:
            check_type(f"new class {name!r}", name, str, "text as its name")
            if not only and name in self.names:
                raise InputError(
                    f"class {name!r} is one of the run's classes already; give the new one another "
                    "name, or replace the run's classes"
                )
        rows = np.stack([self._embedding(name, value) for name, value in classes.items()])
        new = np.zeros(len(rows), bool)
        return dataclasses.replace(
            self,
            names=(() if only else self.names) + tuple(classes),
            embeddings=rows if only else np.concatenate([self.embeddings, rows]),
            seen=new if only else np.concatenate([self.seen, new]),
        )

    def scores(self, attributes: PerExpert[Branches]) -> CandidateScores:
        """Class scores of images by their attribute scores: `p·Zᵀ` in every branch, without bias.

        Args:
          attributes: `[images, attributes]` each, in the data set's order.
        """
        products = [Branches(*(branch @ self.normalized.T for branch in e)) for e in attributes]
        return CandidateScores(self.seen, attributes, PerExpert(*products))

    def _embedding(self, name: str, description: Description) -> np.ndarray:
        """`[attributes]` float32 of a new class."""
        known = self.attribute_names
        if isinstance(description, Mapping):
            check_attributes(f"class {name!r}", tuple(description), known)
            description = [description[a] for a in known]
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                row = np.asarray(description, np.float32)
                row = np.maximum(row, 0) if self.clip_negative else row
                norm = float(np.linalg.norm(row))
        except (TypeError, ValueError) as error:
            raise InputError(f"class {name!r}: its attributes are not all numbers") from error
        if row.shape != (len(known),):
            raise InputError(
                f"class {name!r}: attributes of shape {row.shape}, expected {len(known)} numbers"
            )
        if not MIN_NORM <= norm < np.inf:  # NaN is neither
            found = "all attributes are 0" if norm < MIN_NORM else "NaN, infinite or huge values"
            raise InputError(
                f"class {name!r}: {found}, which describe nothing; expected finite numbers, "
                "not all of them 0"
            )
        return row
