"""Files that are not what was expected: what they are, and what to do about them."""

from __future__ import annotations

from pathlib import Path

from dedn_jax.errors import one_line

HEAD_BYTES = 512
ZIP_MAGIC = b"PK\x03\x04"
# Of zip members: none and deflate. zipfile unpacks others further than it is asked to, and so a
# small member to gigabytes.
ZIP_METHODS = (0, 8)
# What people have in place of a file that they downloaded or cloned, and what to do about it.
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: fetch it with `git lfs pull`"),
    (ZIP_MAGIC, "a zip archive: unpack it first"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB", "a MATLAB file"),
    (b"\x93NUMPY", "a .npy file"),
)
_OF_THE_SYSTEM = "the file system reported it: see to permissions, disk and mount"
_DAMAGED = "its content is damaged: compare its hash with that of where it is from"
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def what_it_is(path: Path, begins: bytes = b"") -> str:
    """What the content of a file shows about it, with what to do; "" where it shows nothing.

    For the end of a message: hints must follow from what was found.

    Args:
      path: the file.
      begins: how files of the format begin that was expected; b"": in many ways.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return "" if begins and head.startswith(begins) else what_begins_so(head)


def what_begins_so(head: bytes) -> str:
    """As `what_it_is`, from the first bytes."""
    if not head:
        return "it is empty (0 bytes)"
    if not any(head):
        return "it begins with zeros, as a file does whose space was reserved but never filled"
    if head.lstrip().lower().startswith(_PAGES):
        return "it is a web page, not the file: get the file that the page is about"
    return next((f"it is {what}" for start, what in _STARTS if head.startswith(start)), "")


def advice_on_unreadable(path: Path, error: BaseException, begins: bytes = b"") -> str:
    """What to do about a file that a library could not read.

    Args:
      path, begins: as `what_it_is`.
      error: what was raised.
    """
    if isinstance(error, OSError) and error.errno:
        return _OF_THE_SYSTEM
    try:
        return what_it_is(path, begins) or _DAMAGED
    except OSError:
        return _OF_THE_SYSTEM


def hdf5_advice(error: BaseException) -> str:
    """What to do about an error that opening or reading an HDF5 file raised, by what it says."""
    text = one_line(error, 10_000).lower()
    if "truncated file" in text:
        return "the file is shorter than it says itself: copy or download it again"
    if "unable to lock file" in text:
        return "reading needs no lock: set the environment variable HDF5_USE_FILE_LOCKING=FALSE"
    if (isinstance(error, OSError) and error.errno) or "errno = " in text:
        return _OF_THE_SYSTEM
    if "filter" in text and ("not registered" in text or "not available" in text):
        return "store the file without that compression, or with gzip (`h5repack -f GZIP=4`)"
    return _DAMAGED
