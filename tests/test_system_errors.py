"""Advice follows from what the system said."""

from __future__ import annotations

import errno
import os

import pytest

from dedn_jax.system_errors import remedy


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EFBIG, "allow larger files (ulimit -f)"),
        (errno.EMFILE, "allow more open files (ulimit -n)"),
        (errno.EACCES, "see to its permissions"),
        (errno.EROFS, "have its file system mounted for writing too"),
        (errno.EIO, "see whether its disk and its mount are well"),
        (errno.ESTALE, "see whether its disk and its mount are well"),
    ],
)
def test_by_number_and_by_words(code: int, advice: str) -> None:
    """Libraries pass on the words alone."""
    assert remedy(OSError(code, os.strerror(code))) == advice
    said = f'OUT_OF_RANGE: Failed writing: "/run/d/1": {os.strerror(code)} [spec={{}}]'
    assert remedy(ValueError(said)) == advice


def test_what_is_not_known() -> None:
    assert remedy(OSError(errno.ENOENT, "No such file"), "look") == "look"
    assert remedy(ValueError("odd")) == ""
