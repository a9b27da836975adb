"""What a process and all that it starts write, until the last of them has ended."""

from __future__ import annotations

import contextlib
import io
import os
import select
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.forks import Forked

_INTO_A_PIPE = """
import os, sys

for stream in 1, 2:
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC), stream)
"""


@contextlib.contextmanager
def all_output(code: str, folder: Path) -> Iterator[tuple[Forked, io.FileIO]]:
    """Python code in a fork, and the pipe to which it and its children write output and errors."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    process = Forked("-c", _INTO_A_PIPE + code, str(pipe))
    with pipe.open("rb", buffering=0) as output:
        yield process, output


def next_line(output: io.FileIO, seconds: float = 300) -> str:
    """The next one that is written; nothing once nobody is left who could write."""
    assert select.select([output], [], [], seconds)[0]
    return output.readline().decode()


def whole(output: io.FileIO) -> str:
    """All that is written."""
    return "".join(iter(lambda: next_line(output), ""))
