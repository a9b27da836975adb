"""Tables that users write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dedn_jax.data.tables import clean, finite_number, first_twice, read_csv
from dedn_jax.errors import InputError


def test_lines_and_cells(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufeffname, a\n\n"two\nlines",  cafe\u0301 \n,,\n')
    assert read_csv(path, "a table") == [(1, ["name", "a"]), (4, ["two lines", "café"])]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe or socket, expected a regular file: a table"):
        read_csv(path, "a table")


def test_names_are_on_one_line_of_text() -> None:
    assert clean(" a\tb\x1b[2J \u202ec\n") == "a b[2J c"
    assert first_twice(["a", "b", "a", "b"]) == "a"
    assert first_twice(["a", "b"]) is None


@pytest.mark.parametrize("cell", ["nan", "inf", "1e39", "0x10", "1_000", "", "one", "1,5", "--1"])
def test_what_is_no_number(cell: str) -> None:
    with pytest.raises(InputError, match=r"t.csv: line 3, column 'wing': .* is not a finite"):
        finite_number(Path("t.csv"), 3, "wing", cell)


def test_numbers_are_as_float32_holds_them() -> None:
    cells = ["0.1", "-3", "1e-3", ".5", "+2."]
    assert [finite_number(Path("t.csv"), 1, "wing", cell) for cell in cells] == pytest.approx(
        [0.1, -3, 0.001, 0.5, 2], rel=1e-7
    )


def test_a_cell_without_end(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,a\nx," + "9" * 5000 + "\n")
    with pytest.raises(InputError, match=r"table.csv: line 2: a cell of 5000 characters") as error:
        read_csv(path, "a table")
    assert len(str(error.value)) < 300
