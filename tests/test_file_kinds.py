"""What files are in place of those that were expected."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from dedn_jax.file_kinds import ZIP_MAGIC, advice_on_unreadable, hdf5_advice, what_it_is


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a", "b")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (bytes(4096), "begins with zeros"),
        (b"\n  <!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"<HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (_zip(), "zip archive: unpack"),
        (gzip.compress(b"x", mtime=0), "gzip: unpack"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"MATLAB 5.0 MAT-file", "a MATLAB file"),
        (b"some words", ""),
    ],
)
def test_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    found = what_it_is(tmp_path / "file")
    assert said in found
    assert bool(said) == bool(found)


def test_advice_follows_from_what_hdf5_said() -> None:
    """Only a file that is shorter than its own header says is one to fetch again."""
    for error, advice in (
        (OSError("Unable to open file (truncated file: eof = 96, stored_eof = 2048)"), "again"),
        (OSError(37, "unable to lock file, errno = 37"), "HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError("file read failed: errno = 5, error message = 'Input/output error'"), "mount"),
        (PermissionError(13, "Permission denied"), "permissions"),
        (OSError("required filter 'blosc' is not registered"), "h5repack"),
        (OSError("filter returned failure during read"), "compare its hash"),
    ):
        text = hdf5_advice(error)
        assert advice in text
        assert ("again" in text) == (advice == "again"), text


def test_a_file_of_the_expected_format_is_damaged_and_not_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(_zip()[:-9])
    error = ValueError("File is not a zip file")
    assert "content is damaged" in advice_on_unreadable(path, error, ZIP_MAGIC)
    assert "unpack it first" in advice_on_unreadable(path, error)
    path.write_bytes(b"<html>")
    assert "web page" in advice_on_unreadable(path, error, ZIP_MAGIC)
    for broken in (OSError(5, "Input/output error"), PermissionError(13, "Permission denied")):
        assert "permissions, disk and mount" in advice_on_unreadable(path, broken, ZIP_MAGIC)
    assert "permissions, disk and mount" in advice_on_unreadable(tmp_path / "none", error)
