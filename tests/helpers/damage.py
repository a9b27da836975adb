"""Damages checkpoints."""

from __future__ import annotations

from pathlib import Path


def _values(folder: Path) -> list[Path]:
    """All files of values: some bytes of a single one may have been written again elsewhere."""
    return [path for path in folder.rglob("d/*") if path.is_file()]


def cut(folder: Path) -> None:
    """As of a disk that was full, or a copy that was not finished."""
    for path in _values(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder: Path) -> None:
    """As of a bad disk."""
    for path in _values(folder):
        data = bytearray(path.read_bytes())
        for i in range(0, len(data), 7):
            data[i] ^= 0xFF
        path.write_bytes(data)
