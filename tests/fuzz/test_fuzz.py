"""Three hundred damaged files: refused with one line, or read. `make fuzz` tries thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.inputs import FILES, make_corpus, run_input

INPUTS = 300


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "corpus"
    make_corpus(folder)
    return folder


def test_damaged_files_are_refused_with_a_line_or_read(corpus: Path, tmp_path: Path) -> None:
    outcomes = [run_input(number, 1, corpus, tmp_path / "work") for number in range(INPUTS)]
    failed = {n: o for n, o in enumerate(outcomes) if o.status == "failed"}
    assert not failed, f"seed 1: {failed}"
    assert {(o.kind, o.file) for o in outcomes} == set(FILES)
    # The damage is damage, and good files are read.
    assert sum(o.status == "refused" for o in outcomes) > INPUTS / 2
    assert sum(o.status == "read" for o in outcomes) > INPUTS / 20
