"""What this machine's processor multiplies."""

from __future__ import annotations

import functools
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")  # of Linux
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, its matrix extension, and ARM
_READ = 65536  # bytes, which hold the flags of the first core


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether it has instructions for it; elsewhere such products are slower than of float32."""
    try:
        with _CPUINFO.open("rb") as file:
            text = file.read(_READ).decode(errors="replace")
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((f for name, _, f in lines if name.strip() in ("flags", "Features")), "")
    return not _FLAGS.isdisjoint(flags.split())
