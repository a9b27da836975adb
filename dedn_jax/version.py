"""Which code this is."""

from __future__ import annotations

import hashlib
from pathlib import Path

__version__ = "0.1.0"


def code_digest() -> str:
    """A digest of the package's source files: two with the same run the same code."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
