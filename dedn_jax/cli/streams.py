"""Standard output and error where a terminal has ASCII alone, or a disk or pipe takes no more."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any

# What tables and texts hold, for terminals that have ASCII alone.
_PLAIN = {"±": "+-", "×": "x", "…": "...", "·": "*"}


def prepare_streams() -> None:
    """Has no stream end a job for what is written to it; for the `dedn` command alone."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get that number
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of classes and pictures may have letters that a terminal has not.
        codecs.register_error("plain", _plain)
        raw = _Output(sys.stdout.fileno(), "w", closefd=False)
        unbuffered = sys.stdout.write_through  # as of `python -u`
        sys.stdout = io.TextIOWrapper(
            raw if unbuffered else io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors="plain",
            line_buffering=sys.stdout.line_buffering,
            write_through=unbuffered,
        )
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = io.TextIOWrapper(
            _Lossy(sys.stderr.fileno(), "w", closefd=False),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )


def flush_output() -> None:
    """Writes what was printed, while an error can still be told.

    Raises:
      OSError: it cannot be written.
    """
    if sys.stdout is not None:  # closed
        sys.stdout.flush()


def drop_output() -> None:
    """Has nothing more come of what was printed: Python flushes it again when it ends."""
    with contextlib.suppress(OSError):
        flush_output()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output(io.FileIO):
    """Names standard output where it cannot be written, which may be at any line."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


class _Lossy(io.FileIO):
    """Drops what cannot be written: progress and notes, on a full disk, never stop a job."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: signs in ASCII, other letters as escapes."""
    if isinstance(error, UnicodeEncodeError) and (sign := _PLAIN.get(error.object[error.start])):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)
