"""Classes that are designed: copied, changed, kept, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.classes_file import read_classes
from dedn_jax.serve.designs import MEAN, Designs

CANDIDATES = Candidates(
    ("jay", "roc"),
    np.array([[1, 0, 0.5], [0, 1, 0.25]], np.float32),
    np.array([True, False]),
    ("tail", "beak", "crest"),
)


def test_a_copy_is_changed_and_the_original_is_not() -> None:
    begun = Designs().begun(CANDIDATES, "jay")
    changed = begun.changed(1, 0.75).renamed(CANDIDATES, "  griffin\n")
    assert changed.draft and begun.draft
    assert (begun.draft.name, changed.draft.name) == ("new jay", "griffin")
    assert begun.draft.row.tolist() == [1, 0, 0.5]
    assert changed.draft.row.tolist() == [1, 0.75, 0.5]
    assert CANDIDATES.embeddings[0].tolist() == [1, 0, 0.5]
    among = changed.among(CANDIDATES)
    assert among.names == ("jay", "roc", "griffin") and not among.seen[2]
    assert Designs().begun(CANDIDATES, MEAN).draft.row.tolist() == [0.5, 0.5, 0.375]  # type: ignore[union-attr]
    assert Designs().among(CANDIDATES) is CANDIDATES


def test_kept_classes_are_a_file_for_predict(tmp_path: Path) -> None:
    first = Designs().begun(CANDIDATES, "jay").changed(0, 0.1).keeping()
    both = first.begun(CANDIDATES, "roc").renamed(CANDIDATES, 'a, "b"').keeping()
    table = tmp_path / "classes.csv"
    table.write_text(both.csv(CANDIDATES))
    found = read_classes(table, CANDIDATES.attribute_names)
    assert list(found) == ["new jay", 'a, "b"']
    np.testing.assert_array_equal(found["new jay"], np.array([0.1, 0, 0.5], np.float32))
    again = both.begun(CANDIDATES, "new jay")
    assert again.draft and again.draft.name == "new jay"
    assert list(again.without("new jay").kept) == ['a, "b"']
    assert again.without("new jay").draft is None


def test_what_cannot_be_designed() -> None:
    begun = Designs().begun(CANDIDATES, "jay")
    for name, message in (("roc", "one of the run's"), (" ", "has no name"), ("x" * 81, "81")):
        with pytest.raises(InputError, match=message):
            begun.renamed(CANDIDATES, name)
    with pytest.raises(InputError, match="none of this name"):
        Designs().begun(CANDIDATES, "phoenix")
    with pytest.raises(InputError, match="no class to keep"):
        Designs().keeping()
    with pytest.raises(InputError, match="all attributes are 0"):
        begun.changed(0, 0).changed(2, 0).among(CANDIDATES)
    full = begun
    for i in range(20):
        full = full.renamed(CANDIDATES, f"class {i}").keeping()
    with pytest.raises(InputError, match="20 classes are kept"):
        full.renamed(CANDIDATES, "one more").keeping()
    assert full.keeping() == full or len(full.keeping().kept) == 20  # changing one is possible
