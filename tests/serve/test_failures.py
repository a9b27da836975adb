"""What the owner and the visitor hear of what nobody foresaw."""

from __future__ import annotations

import pytest

from dedn_jax.serve.failures import Failures


def fail(message: str) -> Exception:
    try:
        raise TypeError(message)
    except TypeError as error:
        return error


def test_the_owner_hears_of_each_once_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    failures = Failures()
    said = failures.noted(fail("no \x1b[31m\nnumber" + "x" * 1000))
    assert "reload the page" in said and "number" not in said
    failures.noted(fail("again"))
    failures.noted(ValueError("another"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("dedn: a visitor's request failed: TypeError: no [31m numberxx")
    assert "test_failures.py:" in first and len(first) < 400
    assert second == "dedn: a visitor's request failed: ValueError: another (nowhere)"
