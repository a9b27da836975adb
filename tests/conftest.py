"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: `DEDN_TEST_DATA`, else `shared/data` beside the checkout."""
    named = os.environ.get("DEDN_TEST_DATA")
    folder = Path(named) if named else _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set DEDN_TEST_DATA to the folder that holds it")
    return folder
