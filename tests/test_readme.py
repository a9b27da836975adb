"""The README is short, and what it links to and names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dedn_jax.config import find_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "launch/README.md"]
)
def test_links(page: str) -> None:
    """Those of docs/ are checked by `make docs`."""
    text = (ROOT / page).read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s:]+)\)", text)]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_recipes_and_targets_exist() -> None:
    for name in re.findall(r"--config=(\w+)", README):
        find_config(name)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", README):
        assert f"\n{target}:" in makefile
