"""One damaged input after the other, and what became of each."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from dedn_jax.cli.quiet import quiet_libraries
from dedn_jax.errors import InputError
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import mutate

MEMORY = 2**30  # bytes that refusing an input may take, whatever it says of itself
SECONDS = 30  # that it may take
FILES = [(kind, file) for kind, found in KINDS.items() for file in found.files]


class Outcome(NamedTuple):
    """What became of an input.

    Attributes:
      kind: of `KINDS`.
      file: which was damaged.
      status: "refused" with one line, "read" without complaint, or "failed".
      text: the line, or what went wrong.
      peak: bytes of memory it took.
    """

    kind: str
    file: str
    status: str
    text: str
    peak: int


class TooLong(BaseException):
    """An input that takes longer than `SECONDS`."""


def make_corpus(folder: Path) -> None:
    """Writes good files of all kinds."""
    quiet_libraries()
    for name, kind in KINDS.items():
        (folder / name).mkdir(parents=True)
        kind.make(folder / name)


def files_of(kind: str | None) -> list[tuple[str, str]]:
    """The files that are damaged in turn, by kind and name; None: of all kinds."""
    return [(name, file) for name, file in FILES if kind in (None, name)]


def run_input(number: int, seed: int, corpus: Path, work: Path, kind: str | None = None) -> Outcome:
    """Damages a file of a copy of the corpus and reads it.

    Args:
      number: of the input; files take turns.
      seed: of the damage, with the number.
      corpus: what `make_corpus` wrote.
      work: a folder for copies, of this process alone.
      kind: of the files; None: all kinds.
    """
    quiet_libraries()  # as the command line does
    files = files_of(kind)
    name, file = files[number % len(files)]
    rng = random.Random(zlib.crc32(f"{seed} {number} {name} {file}".encode()))
    folder = work / name
    if not folder.exists():
        shutil.copytree(corpus / name, folder, symlinks=True)
        _point_to(folder)
    path = folder / file
    path.write_bytes(mutate((corpus / name / file).read_bytes(), rng))
    before = _reset_peak()
    try:
        status, text = _read(name, folder)
    finally:
        peak = max(0, _peak() - before)
        shutil.rmtree(folder)
    if status != "failed" and peak > MEMORY:
        status, text = "failed", f"took {peak} bytes; {text}"
    return Outcome(name, file, status, text, peak)


def _point_to(folder: Path) -> None:
    """The data of a run and sweep lie beside it, wherever it is copied to."""
    for config in (folder / "run" / "config.json", folder / "sweep" / "sweep.json"):
        if config.exists():
            data = str(folder / "tiny.hdf5")
            text = config.read_text()
            start = text.index('"path": "') + len('"path": "')
            config.write_text(text[:start] + data + text[text.index('"', start) :])


def _read(name: str, folder: Path) -> tuple[str, str]:
    printed = io.StringIO()
    try:
        with (
            _limited(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", RuntimeWarning)
            KINDS[name].read(folder)
        return "read", ""
    except InputError as error:
        text = str(error)
        wrong = "\n" in text or len(text) > 2000 or not text.strip()
        return ("failed", f"not one line: {text[:300]!r}") if wrong else ("refused", text)
    except OSError as error:  # the command line makes a line of it
        return "refused", str(error)[:2000]
    except TooLong:
        return "failed", f"takes more than {SECONDS} s"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "dedn_jax" in f.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return "failed", f"{type(error).__name__} at {where}: {str(error)[:200]}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> int:
    """Bytes in memory now; peaks are counted from here on, where the system can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(ln.split()[1]) * 1024 for ln in lines if ln.startswith(field)), 0)
