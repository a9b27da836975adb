"""A bucket in memory."""

from __future__ import annotations

import threading
from pathlib import Path


class MemoryBucket:
    """A bucket in memory; `calls` lists what was changed, `fails` makes changes fail."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.calls: list[str] = []
        self.fails = False
        self._lock = threading.Lock()

    def objects(self, prefix: str, limit: int) -> dict[str, tuple[int, str]]:
        found = {n: c for n, c in self.content.items() if n.startswith(prefix)}
        return {n: (len(c), str(self.versions[n])) for n, c in list(found.items())[:limit]}

    def read(self, name: str) -> bytes:
        if name not in self.content:
            raise FileNotFoundError(2, "no such object or bucket", name)
        return self.content[name]

    def write(self, name: str, data: bytes) -> None:
        if self.fails:
            raise OSError(5, "cannot be reached", name)
        with self._lock:
            self.content[name] = data
            self.versions[name] = self.versions.get(name, 0) + 1
            self.calls.append(name)

    def create(self, name: str, data: bytes) -> bool:
        if name in self.content:
            return False
        self.write(name, data)
        return True

    def upload(self, file: Path, name: str) -> None:
        self.write(name, file.read_bytes())

    def download(self, name: str, file: Path) -> None:
        file.write_bytes(self.read(name))

    def delete(self, name: str) -> None:
        self.content.pop(name, None)
        self.calls.append(f"-{name}")
