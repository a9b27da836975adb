"""Attribute names from the data sets' text files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.data.sources.attribute_names import read_attribute_names
from dedn_jax.errors import InputError


def test_the_forms_in_circulation(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("1 has_bill_shape::curved_(up_or_down)\n2 has_wing_color::blue\n\n")
    assert read_attribute_names(path) == (
        "has_bill_shape::curved_(up_or_down)",
        "has_wing_color::blue",
    )
    path.write_text("    1\tblack\n    2\tnew world\n")
    assert read_attribute_names(path) == ("black", "new world")
    path.write_text("sailing/ boating\nno horizon\n")
    assert read_attribute_names(path) == ("sailing/ boating", "no horizon")
    path.write_text("0 a\n1 b\n")
    assert read_attribute_names(path) == ("a", "b")
    # Numbers that count nothing are part of the names.
    path.write_text("2 legs\n4 legs\nhooves\n")
    assert read_attribute_names(path) == ("2 legs", "4 legs", "hooves")
    path.write_text("3 toed\n5 toed\n")
    assert read_attribute_names(path) == ("3 toed", "5 toed")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no attribute names"),
        (b"a\nb\na\n", "'a' stands there twice"),
        (b"\xff\xfe", "UTF-8"),
        (
            b"1 a\n10 b\n" + b"".join(b"%d c%d\n" % (i, i) for i in range(2, 10)),
            "name 2 .* 10, exp",
        ),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"names\.txt: .*{reason}"):
        read_attribute_names(path)
    with pytest.raises(InputError, match=r"missing\.txt: No such file"):
        read_attribute_names(tmp_path / "missing.txt")
