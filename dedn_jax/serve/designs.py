"""Classes that are designed on the page: copied from a known one, their attributes changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from dedn_jax.data.tables import clean
from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.classes_file import classes_csv

MEAN = "the mean of all classes"
_MOST = 20  # designed classes in a session
_LONGEST = 80  # characters of a name


class Draft(NamedTuple):
    """The class that is being designed.

    Attributes:
      name: of the class.
      row: its attributes, in the data set's order and on its scale.
    """

    name: str
    row: Float32[np.ndarray, " attributes"]


@dataclasses.dataclass(frozen=True)
class Designs:
    """The designed classes of a session; methods return changed copies.

    Attributes:
      draft: the class that is being designed; None before the first one is begun.
      kept: attributes of finished ones, by their names.
    """

    draft: Draft | None = None
    kept: Mapping[str, Float32[np.ndarray, " attributes"]] = dataclasses.field(default_factory=dict)

    @property
    def all(self) -> dict[str, Float32[np.ndarray, " attributes"]]:
        """Kept ones and the draft, which stands for a kept one of its name."""
        return {**self.kept, **({self.draft.name: self.draft.row} if self.draft else {})}

    def begun(self, candidates: Candidates, base: str) -> Designs:
        """With a draft that copies a class of the run, a kept class (under its name), or `MEAN`.

        Raises:
          InputError: there is no such class.
        """
        if base in self.kept:
            return dataclasses.replace(self, draft=Draft(base, self.kept[base]))
        if base == MEAN:
            name, row = "new class", candidates.embeddings.mean(axis=0)
        elif base in candidates.names:
            name, row = f"new {base}", candidates.embeddings[candidates.names.index(base)]
        else:
            raise InputError(f"class {base!r}: there is none of this name to copy")
        return dataclasses.replace(self, draft=Draft(clean(name)[:_LONGEST], row.copy()))

    def changed(self, attribute: int, value: float) -> Designs:
        """With another value of an attribute of the draft."""
        if self.draft is None:
            return self
        row = self.draft.row.copy()
        row[attribute] = value
        return dataclasses.replace(self, draft=self.draft._replace(row=row))

    def renamed(self, candidates: Candidates, name: str) -> Designs:
        """With another name of the draft.

        Raises:
          InputError: no name, a long one, or one of the run's classes.
        """
        if self.draft is None:
            return self
        name = clean(name)
        if not name:
            raise InputError("the new class has no name; give it one")
        if len(name) > _LONGEST:
            raise InputError(f"a name of {len(name)} characters, expected at most {_LONGEST}")
        if name in candidates.names:
            raise InputError(
                f"{name!r} is one of the run's classes; give the new class another name"
            )
        return dataclasses.replace(self, draft=self.draft._replace(name=name))

    def keeping(self) -> Designs:
        """With the draft kept under its name.

        Raises:
          InputError: there is no draft, or there are as many kept classes as can be.
        """
        if self.draft is None:
            raise InputError("no class to keep; choose one to copy first")
        kept = self.all
        if len(kept) > _MOST:
            raise InputError(f"{_MOST} classes are kept already; remove one first")
        return dataclasses.replace(self, kept=kept)

    def without(self, name: str) -> Designs:
        """Without the kept class of this name, and without a draft of it."""
        kept = {n: row for n, row in self.kept.items() if n != name}
        draft = None if self.draft and self.draft.name == name else self.draft
        return Designs(draft, kept)

    def among(self, candidates: Candidates) -> Candidates:
        """The run's classes and the designed ones.

        Raises:
          InputError: a designed class describes nothing.
        """
        return candidates.with_new(self.all) if self.all else candidates

    def csv(self, candidates: Candidates) -> str:
        """The kept classes as the file that `dedn predict --classes` reads."""
        rows = np.stack(list(self.kept.values()))
        return classes_csv(list(self.kept), rows, candidates.attribute_names)
